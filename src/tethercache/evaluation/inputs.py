"""What is evaluated: videos and folders of frames, in folders and their sub-folders, by name."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tethercache.evaluation.images import FEWEST_IMAGES, IMAGE_SUFFIXES

VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
AUDIO_SUFFIXES = {".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"}
_WANTED = VIDEO_SUFFIXES | AUDIO_SUFFIXES


@dataclass(frozen=True)
class Input:
    """A video, or a folder whose images are the frames of one.

    Attributes:
        path: where it is.
        name: what it is called in reports, unlike all others: its path below the folder that was
            given, and more of its path where that has two meanings.
        shown: its path in reports: as given, but never absolute.
        problem: why it cannot be opened, if that is known.
    """

    path: Path
    name: str
    shown: str
    problem: str = ""


def find_inputs(paths: Sequence[Path], without: Path | None = None) -> list[Input]:
    """Files as they are, and what folders and their sub-folders hold, sorted by name.

    Sound files, pipes, broken links and folders that cannot be read are listed too, so that they
    are named as skipped and not overlooked. What begins with a dot is left out.

    Args:
        paths: videos and folders.
        without: a folder to leave out, such as that of the report.

    Raises:
        ValueError: there is no such file or folder, or there are no videos.
    """
    found: dict[str, Input] = {}
    hidden = None if without is None else os.path.realpath(without)
    for given in paths:
        if not os.path.lexists(given):
            raise ValueError(f"no such file or folder: {given}")
        for path, problem in _below(given, hidden) if os.path.isdir(given) else [_checked(given)]:
            relative = path.relative_to(given).as_posix() if path != given else ""
            name = relative or given.name or given.resolve().name
            below = str(Path(given.name or ".", relative)) if given.is_absolute() else str(path)
            found.setdefault(os.path.abspath(path), Input(path, name, below, problem))
    if not found:
        raise ValueError(f"no videos in {', '.join(map(str, paths))}")
    return _told_apart(list(found.values()))


def _below(root: Path, hidden: str | None) -> Iterator[tuple[Path, str]]:
    """Everything to evaluate in a folder, with what is wrong with it."""
    folders, seen = [root], set()
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in seen or real == hidden:
            continue
        seen.add(real)
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            yield folder, f"cannot be read: {error.strerror}"
            continue
        paths = [folder / name for name in names if not name.startswith(".")]
        deeper = [path for path in paths if os.path.isdir(path)]
        others = [path for path in paths if not os.path.isdir(path)]
        folders += reversed(deeper)
        videos = [path for path in others if path.suffix.lower() in _WANTED]
        yield from map(_checked, videos)
        if not videos:
            images = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in others)
            if images >= (1 if folder == root and not deeper else FEWEST_IMAGES):
                yield folder, ""


def _checked(path: Path) -> tuple[Path, str]:
    """A path with what can be wrong before it is opened: opening a pipe would wait."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path, "is a broken link"
    except OSError as error:
        return path, f"cannot be read: {error.strerror}"
    return path, "" if stat.S_ISREG(mode) else "is no ordinary file, but a pipe, socket or device"


def _told_apart(inputs: list[Input]) -> list[Input]:
    """Give those of one name more of their paths, until no two are alike."""
    while True:
        count = Counter(each.name for each in inputs)
        twice = [i for i, each in enumerate(inputs) if count[each.name] > 1]
        if not twice:
            return sorted(inputs, key=lambda each: (each.name, each.shown))
        for i in twice:
            parts = Path(os.path.abspath(inputs[i].path)).parts
            inputs[i] = replace(inputs[i], name="/".join(parts[-(inputs[i].name.count("/") + 2) :]))
