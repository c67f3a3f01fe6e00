"""`tethercache bench`: the table, the JSON line, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import pages
from tests.bench.toy import TOY
from tests.conftest import ROOT
from tethercache.bench import cases, run
from tethercache.cli import main
from tethercache.policies import POLICIES


def bench(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *map(str, arguments)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "huge"], "unknown case `huge` (known: small, block, tiny, 1.3b)"),
        (["--policy", "sinkk"], "did you mean `sink`?"),
        (["--chunks", "3"], "--chunks (3) must be at least 7"),
        (["--threads", "0"], "`threads` (0) must be a whole number from 1 to 512"),
        (["--threads", "100000"], "`threads` (100000) must be a whole number from 1 to 512"),
        (["--output", "nowhere/speed.json"], "must lie in a folder that exists"),
        (["--output", "."], "--output (.) must be a file"),
        (["--attention", "none"], "`attention` (none) must be auto, native"),
        (["--device", "nonsense"], "`device` (nonsense) cannot be used here"),
        (["--policy", "tethercache", "--policy", "fifo:window=12"], "compared at the same K"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line


def test_the_table_comes_first_and_one_json_line_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cases.CASES, "small", TOY)  # type: ignore[index]
    monkeypatch.setattr(run, "matrix_peak", lambda *_: 1e9)
    file = tmp_path / "speed.json"
    threads = torch.get_num_threads()
    status = bench("--case", "small", "--chunks", 7, "--threads", threads, "-o", file)
    *table, last = capsys.readouterr().out.splitlines()
    made = json.loads(last)
    assert made == json.loads(file.read_text())
    assert status == (0 if made["quiet"] else 1)
    assert len(made["cases"]) == 5
    assert made["threads"] == {"small": threads}
    heads = [line for line in table if line.startswith("case")]
    assert all(name in heads[0] for name in ("ms/chunk", "transformer", "cache", "waiting"))
    assert all(name in heads[1] for name in ("frames/s", "with decode", "peak MB", "of peak"))
    assert any("small: tethercache takes" in line for line in table)
    assert any("the bare transformer, at most 1.05" in line for line in table)


@pytest.mark.parametrize("line", pages.commands((ROOT / "docs/benchmarks.md").read_text()))
def test_every_command_of_the_page_parses(line: str) -> None:
    parsed = pages.parse(line)
    assert set(parsed["case"] or ()) <= set(cases.CASES)
    for policy in parsed["policy"] or ():
        POLICIES.parse(policy)


def test_the_help_names_cases_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--help") == 0
    shown = capsys.readouterr().out
    for option in ("--case", "--policy", "--chunks", "--device", "--dtype", "--output"):
        assert option in shown
