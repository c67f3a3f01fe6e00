"""`tethercache resume`: go on with a video that broke off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tethercache.cli import options as given
from tethercache.cli.failures import Debug
from tethercache.cli.making import carry_out
from tethercache.render.batch import Job, Resume


def resume(
    video: Annotated[Path, typer.Argument(help="The video, NAME.mp4, or its partial file.")],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also where software or hardware has changed since.")
    ] = False,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Go on with a video that broke off, as its record says.

    The finished file is the same as if nothing had happened.
    """
    from tethercache.render.branch import Take

    take = Take.find(video)
    how = Resume.ANYWAY if anyway else Resume.YES
    carry_out([Job(take.request, take.path)], resume=how, as_json=as_json)
