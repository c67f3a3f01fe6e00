"""The log of a campaign: what happened to how many runs, and what came of them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.kinds import KINDS

Outcome = Mapping[str, Any]


def write_log(path: Path, command: str, outcomes: Sequence[Outcome]) -> None:
    """Write the table of the kinds, the findings, and every trial."""
    kills = sum(one["kills"] for one in outcomes)
    findings = [one for one in outcomes if one["finding"]]
    lines = [
        "# Faults",
        "",
        f"`{command}` at {_commit()} on {_machine()}: {len(outcomes)} trials, {kills} SIGKILLs, "
        f"{len(findings)} findings.",
        "",
        "A trial ends well if the video and its record are, to the byte, those of a run that "
        "nothing disturbed (but for seconds), nothing else is left, a resume went on at the newest "
        "snapshot that is whole, "
        "and what was refused was refused in one line and changed nothing. After every run: "
        "nothing under a final name that is not whole, and a partial file that plays.",
        "",
        "| kind | what happens | trials | SIGKILLs | gone on above chunk 0 | findings |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, kind in KINDS.items():
        mine = [one for one in outcomes if one["kind"] == name]
        if mine:
            what = (kind.run.__doc__ or "").splitlines()[0].rstrip(".")
            above = sum(one["went_on"] > 0 for one in mine)
            wrong = sum(bool(one["finding"]) for one in mine)
            killed = sum(one["kills"] for one in mine)
            lines.append(f"| {name} | {what} | {len(mine)} | {killed} | {above} | {wrong} |")
    lines += ["", "## Findings", ""] * bool(findings)
    lines += [f"* {one['kind']} {one['seed']}: {one['finding'][:300]}" for one in findings]
    lines += ["", "## Trials", "", "Kind, seed, video: what happened.", ""]
    lines += [_line(one) for one in outcomes]
    path.write_text("\n".join(lines) + "\n")


def _line(one: Outcome) -> str:
    return f"* {one['kind']}, {one['seed']}, {one['video']}: {'; '.join(one['story'])}"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{platform.system()} {platform.machine()}, {cores} cores, Python {python}"
