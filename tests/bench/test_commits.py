"""The comparison of two commits: real processes with the sources of each."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext

import pytest

from benchmarks import commits
from tests.conftest import ROOT

COMMAND = [sys.executable, "benchmarks/commits.py"]
in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these are not sources in git")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@in_git
@pytest.mark.slow
def test_a_commit_is_compared_with_itself() -> None:
    done = run("HEAD", "HEAD", "--rounds", "1")
    *table, last = done.stdout.splitlines()
    made = json.loads(last)
    assert made["old"] == made["new"]
    assert [row["policy"] for row in made["cases"]] == ["window", "tethercache"]
    assert len(table) == 1 + 2
    for row in made["cases"]:
        low, high = row["interval"]
        assert 0 < low <= row["ratio"] <= high
        assert row["as_fast"] is (low <= 1.02)
    assert done.returncode == (0 if all(row["as_fast"] for row in made["cases"]) else 1)


@in_git
def test_an_unknown_commit_is_one_line() -> None:
    done = run("no-such-commit")
    assert done.returncode == 1
    assert "no-such-commit" in done.stderr
    assert len(done.stderr.splitlines()) == 1


class Timed:
    """A commit whose every chunk takes the same."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def ready(self) -> None: ...

    def stop(self) -> None: ...

    def chunk(self, policy: str) -> float:
        return self._seconds


@pytest.mark.parametrize(("seconds", "status"), [(1.02, 0), (1.03, 1)])
def test_the_interval_decides(
    seconds: float,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commits, "git", lambda *given: given[-1].encode())
    monkeypatch.setattr(commits, "sources", nullcontext)
    monkeypatch.setattr(
        commits, "Commit", lambda name, *_: Timed(1.0 if name.startswith("old") else seconds)
    )
    monkeypatch.setattr(sys, "argv", ["commits.py", "old", "new"])
    assert commits.main() == status
    assert ("SLOWER" in capsys.readouterr().out) is bool(status)
