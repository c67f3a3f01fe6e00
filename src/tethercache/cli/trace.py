"""`tethercache trace`: what the cache did while a video was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tethercache.arguments import number
from tethercache.cli.failures import Debug
from tethercache.cli.options import AsJson, Overwrite
from tethercache.text import printable

app = typer.Typer(
    help="Traces: what the cache did while a video was made with `generate --trace`.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The video, or its trace.")]
From = Annotated[float, typer.Option("--from", help="Only from this second on.")]
To = Annotated[float | None, typer.Option("--to", help="Only up to this second.")]


@app.command()
def view(
    file: File,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page.", show_default="NAME.trace.html"),
    ] = None,
    start: From = 0.0,
    stop: To = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Make one HTML page of a trace, to look at in a browser.

    It needs nothing else: pictures of the frames, from the video, are inside.
    """
    from tethercache.files import check_free, write_atomically
    from tethercache.trace.find import find_trace
    from tethercache.trace.page import default_name, page_of

    _check_span(start, stop)
    found = find_trace(file)
    path = output or default_name(found.path)
    check_free(path, overwrite=overwrite)
    html, notes = page_of(found, start, stop)
    write_atomically(path, html)
    console = Console(stderr=True)
    for note in notes:
        console.print(printable(note), markup=False, highlight=False, soft_wrap=True)
    print(printable(f"{path}: {len(html) / 1e6:.1f} MB, open it in a browser"))


@app.command()
def show(
    file: File,
    chunk: Annotated[
        int | None, typer.Option(help="What could be read while this chunk was made.")
    ] = None,
    start: From = 0.0,
    stop: To = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print what a trace says, chunk by chunk, all layers together."""
    from tethercache.trace import memory_of
    from tethercache.trace.find import find_trace

    _check_span(start, stop)
    header, chunks = find_trace(file).read(start, stop)
    wanted = (each for each in chunks if chunk is None or each["chunk"] == chunk)
    said = [{**_place(each), "memory": memory_of(each), **_moves(each)} for each in wanted]
    if not said:
        raise ValueError(f"no chunk of {file} is asked for")
    if as_json:
        print(json.dumps({"header": header, "chunks": said}))
        return
    table = _overview(said, header) if chunk is None else _memory(said[0], header)
    Console(highlight=False).print(table)


def _check_span(start: float, stop: float | None) -> None:
    number("from", start, least=0)
    if stop is not None and number("to", stop) <= start:
        raise ValueError(f"--to ({stop:g}) must be larger than --from ({start:g})")


def _place(chunk: Mapping[str, Any]) -> dict[str, Any]:
    return {name: chunk[name] for name in ("chunk", "start", "stop", "changes")}


def _moves(chunk: Mapping[str, Any]) -> dict[str, list[int]]:
    """Frames that came into memory or left for good, in any layer."""
    moved = ("admitted", "dropped")
    return {name: sorted({f for layer in chunk["layers"] for f in layer[name]}) for name in moved}


def _second(frame: int, header: Mapping[str, Any]) -> str:
    from tethercache.rollout.plan import first_frame

    return f"{first_frame(frame, header['frames_per_latent']) / header['fps']:.2f}"


def _overview(said: Iterable[Mapping[str, Any]], header: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    heads = ("chunk", "second", "sink", "memory", "recent", "came", "left", "before it")
    for head in heads:
        table.add_column(head, justify="left" if head == heads[-1] else "right")
    for each in said:
        roles = [frame["role"] for frame in each["memory"]["frames"]]
        table.add_row(
            str(each["chunk"]),
            _second(each["start"], header),
            *(str(roles.count(role)) for role in ("sink", "memory", "recent")),
            *(str(len(each[name])) for name in ("admitted", "dropped")),
            ", ".join(dict.fromkeys(change["change"] for change in each["changes"])),
        )
    return table


def _memory(said: Mapping[str, Any], header: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("frame", "second", "role", "layers", "score", "marks"):
        table.add_column(head, justify="left" if head in ("role", "marks") else "right")
    layers = said["memory"]["layers"]
    for frame in said["memory"]["frames"]:
        score = frame["score"]
        table.add_row(
            str(frame["frame"]),
            _second(frame["frame"], header),
            frame["role"],
            f"{frame['share'] * layers:.0f} of {layers}",
            "" if score is None else f"{score:.4g}",
            ", ".join(frame["marks"]),
        )
    return table
