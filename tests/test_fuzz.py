"""A short campaign of every kind of input, and the guard that would see what must not happen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import fuzz.runner
from fuzz import mutate
from fuzz.guard import MARK
from fuzz.kind import Kind
from tethercache.errors import DamagedModelError

ROOT = Path(__file__).parents[1]


def in_new_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A campaign forks, which threads of this process may not survive."""
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_an_input_depends_on_nothing_but_its_number() -> None:
    document = {"a": [1, {"b": "c"}], "d": None, "e": 10**400}
    made = [repr(mutate.changed(document, Random(index))) for index in range(2000)]
    again = [repr(mutate.changed(document, Random(index))) for index in reversed(range(2000))]
    assert made == again[::-1]


def test_no_input_does_what_it_must_not(tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    ended = in_new_process(
        "-m", "fuzz", "--short", "--seed", "7", "--log", str(log), "--state", str(tmp_path / "runs")
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line for line in log.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 10  # kinds
    assert [row.split()[-2] for row in rows] == ["findings", *["0"] * (len(rows) - 1)]


class Wicked(Kind):
    """Does what the content says."""

    name = "wicked"

    def make(self, rng: Random) -> bytes:
        return b""

    def take(self, content: bytes) -> None:
        exec(content.decode(), {"os": os, "signal": signal, "DamagedModelError": DamagedModelError})


FAULTS = {
    "pass": "",
    "raise DamagedModelError('cut off')": "",
    "raise DamagedModelError('')": "says nothing",
    "int('a')": "a library's ValueError",
    "1 / 0": "ZeroDivisionError",
    f"open({MARK!r}, 'w').close()": "made its mark",
    "open('../outside', 'w').close(); os.unlink('../outside')": "for writing",
    "os.system('true')": "os.system",
    "b'a' * (100 << 20)": "took 1",
    "os.kill(os.getpid(), signal.SIGSEGV)": "SIGSEGV",
    "os._exit(3)": "ended by itself",
    "while True: pass": "computes",
    "signal.pause()": "waits for nothing",
    "open('/proc/self/comm', 'r+').close()": "",
    "os.getcwd()": "",
}


def wicked() -> None:
    fuzz.runner.PATIENCE = 2.0
    fuzz.runner.MOST_MEMORY = 64 << 20
    with fuzz.runner.prepared(Wicked()) as kind:
        inputs = [(index, fault.encode()) for index, fault in enumerate(FAULTS)]
        outcomes = list(fuzz.runner.run(kind, inputs))
    for (fault, finding), outcome in zip(FAULTS.items(), outcomes, strict=True):
        assert finding in outcome.finding, (fault, outcome)
        assert bool(finding) == bool(outcome.finding), (fault, outcome)


@pytest.mark.slow
def test_the_guard_sees_everything_that_must_not_happen() -> None:
    ended = in_new_process("-c", "from tests.test_fuzz import wicked; wicked()")
    assert ended.returncode == 0, ended.stderr
