"""`tethercache branch` and `rewind`: another future of a video, beside it or in its place."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tethercache.cli import options as given
from tethercache.cli.failures import Debug
from tethercache.cli.making import carry_out
from tethercache.cli.script import Then
from tethercache.render.batch import Resume
from tethercache.script import Change
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.render.branch import BranchPoint

Video = Annotated[Path, typer.Argument(help="The video, finished or not.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="What it shows from there on, if that changes.")
]


class ChangeHow(StrEnum):
    """What becomes of the memory where the prompt changes."""

    SOFT = "soft"
    RECACHE = "recache"
    CUT = "cut"


How = Annotated[
    ChangeHow,
    typer.Option(
        "--how",
        help="soft: what is remembered stays; recache: it is read again under the new prompt; "
        "cut: a new shot begins.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", "-s", help="Length of the new video.", show_default="as before"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the noise from there on.")]


def branch(
    video: Video,
    at: Annotated[
        float, typer.Option("--at", metavar="SECOND", help="Where it leaves its parent.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The new video.", show_default="NAME-take-2.mp4, ..."),
    ] = None,
    prompt: Prompt = None,
    how: How = ChangeHow.SOFT,
    seed: Seed = None,
    then: Then = None,
    seconds: Seconds = None,
    overwrite: given.Overwrite = False,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Make another future of a video, from a second on.

    Up to there its frames are its parent's; with nothing changed, those behind it are too.
    """
    from tethercache.render.branch import next_take, plan_branch

    future = _future(prompt, how, seed, then, seconds)
    point = plan_branch(video, at, output or next_take(video), **future)
    _make(point, overwrite=overwrite, as_json=as_json)


def rewind(
    video: Video,
    to: Annotated[float, typer.Option("--to", metavar="SECOND", help="Where it goes on again.")],
    prompt: Prompt = None,
    how: How = ChangeHow.SOFT,
    seed: Seed = None,
    then: Then = None,
    seconds: Seconds = None,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Go back to a second of a video, and make it again from there.

    A finished video stays as it is until the new one is complete.
    """
    from tethercache.render.branch import plan_branch

    future = _future(prompt, how, seed, then, seconds)
    _make(plan_branch(video, to, **future), overwrite=True, as_json=as_json)


def _future(
    prompt: str | None,
    how: ChangeHow,
    seed: int | None,
    then: list[str] | None,
    seconds: float | None,
) -> dict[str, Any]:
    changes = tuple(map(Change.parse, then or ()))
    return {"text": prompt, "how": how.value, "seed": seed, "then": changes, "seconds": seconds}


def _make(point: BranchPoint, *, overwrite: bool, as_json: bool) -> None:
    from tethercache.render.branch import begin_branch

    console = Console(stderr=True)
    line = f"{point.job.path}: {point.describe()}"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    begin_branch(point, overwrite=overwrite)
    resume = Resume.NO if point.snapshot is None else Resume.YES
    overwrite = overwrite or point.snapshot is not None  # what was just laid out
    carry_out([point.job], overwrite=overwrite, resume=resume, as_json=as_json)
