"""A trace as one HTML page that needs nothing else, to look at in a browser.

Everything is inside: the chunks with what `memory_of` says of each, compressed, and pictures of the
frames. How it looks is in `view/`: a page, its style, and the script that draws. What comes from
files reaches the page as text only, and the page may load nothing and send nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from tethercache import __version__
from tethercache.text import printable
from tethercache.trace.find import Found
from tethercache.trace.pictures import COLUMNS, ROWS, WIDTH, Sheets, sheets
from tethercache.trace.summary import memory_of

_NONE = Sheets(WIDTH, WIDTH * 9 // 16, (), ())


def page(
    header: Mapping[str, Any],
    chunks: Sequence[Mapping[str, Any]],
    *,
    name: str,
    pictures: Sheets | None = None,
) -> str:
    """The HTML of a trace.

    Args:
        header: of the trace, see `trace/file.py`.
        chunks: all of them, or some that follow each other.
        name: of the video.
        pictures: of its latent frames; None: there are none.

    Raises:
        ValueError: there are no chunks.
    """
    if not chunks:
        raise ValueError("a trace without chunks shows nothing")
    shown = pictures or _NONE
    data = {
        "header": dict(header),
        "chunks": [{**chunk, "memory": memory_of(chunk)} for chunk in chunks],
        "pictures": {
            "width": shown.width,
            "height": shown.height,
            "frames": shown.frames,
            "columns": COLUMNS,
            "rows": ROWS,
        },
    }
    script = _part("view.js")
    styles = [
        f'.sheet{i} {{ background-image: url("data:image/jpeg;base64,{_base64(jpeg)}") }}'
        for i, jpeg in enumerate(shown.jpegs)
    ]
    values = {
        "title": _text(f"Trace of {name}"),
        "name": _text(name),
        "prompt": _text(str(header.get("prompt", ""))),
        "version": _text(__version__),
        "style": _part("view.css"),
        "sheets": "\n".join(styles),
        "script": script,
        "script_hash": f"sha256-{_base64(hashlib.sha256(script.encode()).digest())}",
        "data": _base64(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9)),
    }
    return Template(_part("view.html")).substitute(values)


def page_of(found: Found, start: float = 0.0, stop: float | None = None) -> tuple[str, list[str]]:
    """The HTML of a trace that was found, and what there is to say about it.

    Args:
        found: the trace and its video.
        start: only chunks that show anything from this second on.
        stop: only chunks that show anything before this second; None: to the end.

    Raises:
        DamagedTraceError: it is none, or damaged.
        ValueError: no chunk is left.
    """
    header, some = found.read(start, stop)
    chunks, notes, pictures = list(some), [], None
    if not chunks:
        raise ValueError(f"{found.path} has no chunk between these seconds")
    if found.video is None:
        notes.append("the video is not there, so the page has no pictures")
    elif not found.belongs(chunks[-1]):
        notes.append(f"{found.video} is another video than that of the trace: no pictures")
    else:
        pictures = sheets(found.video, frames_in(chunks))
    name = (found.video or found.path).name
    return page(header, chunks, name=name, pictures=pictures), notes


def frames_in(chunks: Sequence[Mapping[str, Any]]) -> list[int]:
    """All latent frames that these chunks have anything to do with."""
    names = ("seen", "admitted", "dropped")
    layers = [layer for chunk in chunks for layer in chunk["layers"]]
    decided = [decision["frames"] for layer in layers for decision in layer["decisions"]]
    lists = [*decided, *(layer[name] for layer in layers for name in names)]
    return sorted({frame for frames in lists for frame in frames})


def _part(name: str) -> str:
    return (files("tethercache.trace") / "view" / name).read_text("utf-8")


def _text(text: str) -> str:
    return html.escape(printable(text))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def default_name(trace: Path) -> Path:
    """Where the page of a trace goes, if nobody says: `NAME.trace.html`."""
    return trace.with_name(trace.name.removesuffix(".jsonl.gz") + ".html")
