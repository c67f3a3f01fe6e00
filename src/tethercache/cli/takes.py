"""`tethercache takes`: the videos in a folder, and which is a branch of which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from tethercache.cli import options as given
from tethercache.cli.failures import Debug, report
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.render.takes import Node


def takes(
    folder: Annotated[Path, typer.Argument(help="A folder of videos.")] = Path(),
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the videos in a folder as a tree of takes."""
    from tethercache.render.takes import find_takes

    if not folder.is_dir():
        raise NotADirectoryError(20, "not a folder", str(folder))
    roots, problems = find_takes(folder)
    for problem in problems:
        report(ValueError(problem))
    if as_json:
        print(json.dumps({"takes": [_as_dict(node) for node in roots]}))
        return
    tree = Tree(Text(printable(str(folder))))
    for node in roots:
        _grow(tree, node)
    Console().print(tree if roots else "no videos with records here")


def _grow(tree: Tree, node: Node) -> None:
    branch = tree.add(Text(printable(_line(node))))
    for other in node.branches:
        _grow(branch, other)


def _line(node: Node) -> str:
    record, request = node.take.record, node.take.request
    left = "" if node.at is None else f" from second {node.at:.2f}"
    state = "" if record.is_complete else ", unfinished"
    length = float(record.num_frames / record.fps)
    texts = [request.prompt, *(change.text for change in request.then if change.text)]
    shown = " > ".join(texts)
    return f"{node.take.path.name}{left}: {length:g} s, seed {request.seed}{state} · {shown}"


def _as_dict(node: Node) -> dict[str, Any]:
    record, request = node.take.record, node.take.request
    return {
        "path": str(node.take.path),
        "at": node.at,
        "complete": record.is_complete,
        "seconds": float(record.num_frames / record.fps),
        "frames_hash": record.frames_hash,
        "prompt": request.prompt,
        "then": request.to_dict()["then"],
        "seed": request.seed,
        "branches": [_as_dict(other) for other in node.branches],
    }
