"""The real command line is killed and misled; `python -m faults` is the whole campaign."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_fuzz import in_new_process


def campaign(tmp_path: Path, *arguments: str) -> str:
    """A campaign without findings; its log."""
    log = tmp_path / "log.md"
    where = ("--log", str(log), "--state", str(tmp_path / "runs"))
    ended = in_new_process("-m", "faults", *arguments, *where)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return log.read_text()


def test_killed_anywhere_a_run_goes_on_and_ends_as_the_same_file(tmp_path: Path) -> None:
    log = campaign(tmp_path, "--kind", "again", "--number", "1", "--seed", "3")
    assert "--resume: 0" in log


@pytest.mark.slow
def test_whatever_happens_the_video_is_the_same_in_the_end(tmp_path: Path) -> None:
    log = campaign(tmp_path, "--short", "--seed", "7")
    went_on = [int(chunk) for chunk in re.findall(r"went on at chunk (\d+)", log)]
    assert max(went_on) > 0
    rows = [line.split("|") for line in log.splitlines() if line.startswith("| ")]
    assert len(rows) > 8
    assert all(row[-2].strip() == "0" for row in rows[1:])
