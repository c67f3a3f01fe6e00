"""The flags by which nothing gets lost: resuming, snapshots, the guard."""

from __future__ import annotations

from typing import Annotated

import typer

_SAFETY = "Snapshots"

Guard = Annotated[
    bool,
    typer.Option(
        "--guard", help="Where the video drifts, go back and try something else, a few times."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what a run that broke off has left.")
]
ResumeAnyway = Annotated[
    bool,
    typer.Option(
        "--resume-anyway", help="The same, also where software or hardware has changed since."
    ),
]
KeepSnapshots = Annotated[
    int,
    typer.Option(
        min=0, help="Newest snapshots to keep, for --resume; 0 takes none.", rich_help_panel=_SAFETY
    ),
]
SnapshotEvery = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="SECONDS",
        help="Work between two snapshots.",
        show_default="at least 2 s, and at most 2 % of the time",
        rich_help_panel=_SAFETY,
    ),
]
SnapshotBudget = Annotated[
    float,
    typer.Option(
        min=0.0,
        metavar="GB",
        help="Room for older snapshots, which stay when the video is complete, for branches.",
        rich_help_panel=_SAFETY,
    ),
]
