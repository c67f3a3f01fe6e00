"""The videos in a folder as a tree: which one is a branch of which."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tethercache.render.branch import Take, final_path
from tethercache.render.snapshots import SUFFIX


@dataclass(frozen=True)
class Node:
    """A video and its branches.

    Attributes:
        take: the video.
        at: the second at which it leaves its parent; None: it has none here.
        branches: by that second.
    """

    take: Take
    at: float | None = None
    branches: list[Node] = field(default_factory=list)


def find_takes(folder: Path) -> tuple[list[Node], list[str]]:
    """All videos with a record in a folder.

    Args:
        folder: it is not searched deeper.

    Returns:
        Those that are no branch of another one here, by name; and what is wrong with records that
        cannot be read.
    """
    names = {
        final_path(path) for pattern in ("*.mp4", f"*{SUFFIX}") for path in folder.glob(pattern)
    }
    nodes, problems = {}, []
    for path in sorted(names):
        try:
            take = Take.find(path)
            branch = take.request.branch
        except FileNotFoundError:
            continue  # a video of another maker
        except ValueError as error:
            problems.append(f"{path.name}: {error}")
            continue
        nodes[path.resolve()] = Node(take, None if branch is None else branch.at)
    roots = []
    for node in nodes.values():
        branch = node.take.request.branch
        parent = None if branch is None else nodes.get(Path(branch.video).resolve())
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.branches.append(node)
    for node in nodes.values():
        node.branches.sort(key=lambda other: (other.at or 0.0, other.take.path))
    return roots, problems
