"""`tethercache reproduce`: make a video again, and say whether it is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tethercache.cli import options as given
from tethercache.cli.failures import Debug
from tethercache.cli.output import quiet_libraries
from tethercache.cli.progress import say_how, showing
from tethercache.errors import TetherCacheError
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.render import Loaded


class NotReproducedError(TetherCacheError):
    """The frames are others than before."""


def reproduce(
    video: Annotated[Path, typer.Argument(help="The video, or its record.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Keep the new video here.", show_default="it is deleted"
        ),
    ] = None,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a video again from its record, and say whether its frames are the same.

    If they are not, it says what differs in software and hardware; the status is 1 then.
    """
    from contextlib import ExitStack

    from tethercache.render.reproduce import reproduce as make_again

    quiet_libraries()
    console = Console(stderr=True)
    with ExitStack() as stack:
        shown = []

        def begin(loaded: Loaded) -> None:
            say_how(console, loaded)
            shown.append(stack.enter_context(showing(console, output or video, loaded)))

        found = make_again(video, output, begun=begin, told=lambda recording: shown[0](recording))
    chunks = len(found.record.chunk_hashes)
    if as_json:
        print(
            json.dumps(
                {
                    "same": found.same,
                    "first_difference": found.first_difference,
                    "causes": list(found.causes),
                    "frames_hash": found.record.frames_hash,
                }
            )
        )
    causes = "; ".join(found.causes)
    if found.same:
        apart = f" (although other: {causes})" if causes else ""
        print(printable(f"{video}: the same, all {found.record.num_frames} frames{apart}"))
        return
    why = f"; what differs: {causes}" if causes else "; software and hardware are the same"
    raise NotReproducedError(
        f"{video}: the frames differ from chunk {found.first_difference} of {chunks} on{why}"
    )
