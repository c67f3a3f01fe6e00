"""The log of a campaign: one table, and what was found."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fuzz.guard import MOST_MEMORY
from fuzz.runner import PATIENCE, Tally


def write_log(path: Path, command: str, tallies: Mapping[str, Tally]) -> None:
    """Write what became of the inputs of each kind."""
    total = sum(tally.done for tally in tallies.values())
    lines = [
        "# Fuzz campaign",
        "",
        f"`{command}` at {_commit()} on {_machine()}: "
        f"{total:,} inputs. An input may compute or wait for {PATIENCE:g} s and take "
        f"{MOST_MEMORY >> 20:,} MiB more than its process had; it may not run code, call out or "
        "write elsewhere. Seconds are of computing.",
        "",
        "| kind | inputs | accepted | refused or reported | slowest | most memory | findings |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    lines += [_row(name, tally) for name, tally in tallies.items()]
    found = [(name, found) for name, tally in tallies.items() for found in tally.findings]
    if found:
        lines += ["", "## Findings", ""]
        lines += [f"* {name} {one['index']}: {one['finding'][:200]}" for name, one in found]
    path.write_text("\n".join(lines) + "\n")


def _row(name: str, tally: Tally) -> str:
    refused = [f"{what} {n:,}" for what, n in tally.outcomes.most_common() if what != "accepted"]
    return (
        f"| {name} | {tally.done:,} | {tally.outcomes['accepted']:,} | {', '.join(refused)} "
        f"| {tally.slowest:.2f} s ({tally.slowest_index}) "
        f"| {tally.memory / 1e6:.0f} MB ({tally.memory_index}) | {len(tally.findings)} |"
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{platform.system()} {platform.machine()}, {cores} cores, Python {python}"
