"""Result files of VBench-Long to a run: which scores, which weights, and what does not fit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tethercache.arguments import as_path
from tethercache.evaluation.vbench.aggregate import (
    DEFAULT,
    DEVELOPER,
    ClipScore,
    Run,
    Weights,
    map_clip_to_clip,
    mean,
    mean_over_groups,
)
from tethercache.evaluation.vbench.dimensions import (
    DIMENSIONS,
    FUSED,
    PERCENT,
    dimension_name,
    sister_suite,
)
from tethercache.evaluation.vbench.documents import Document, read_documents

_SAME = 1e-9
_CLOSE = 1e-6  # of fused scores, which were computed in another order
_FRAME_WEIGHED = 1e-3  # VBench weighs clips by their frames where it fuses nothing


class _NotLongError(Exception):
    """Scores of whole videos, as VBench's suite for short videos makes them."""


@dataclass(frozen=True)
class _Item:
    """One entry of a dimension: the score of a clip, and for consistencies its parts."""

    path: str
    result: float
    in_clip: float | None = None
    clip_to_clip: float | None = None
    mapped: float | None = None


@dataclass
class _Found:
    """A dimension of one file."""

    document: Document
    score: float
    items: list[_Item] = field(default_factory=list)


def read_results(path: Path) -> Run:
    """Read a finished run of VBench-Long, made here or elsewhere.

    Of a dimension that was scored twice in a folder, the newest file counts. The score of a
    dimension is what its file states, for that is what VBench makes its totals of; what the clips
    make is compared with it.

    Args:
        path: a folder, with the files in it or in sub-folders; a zip of one; or one JSON file.

    Raises:
        ValueError: it is no path, there are no result files, none has a dimension of VBench-Long,
            or there are those of several runs.
    """
    documents = read_documents(as_path("path", path))
    problems = [f"{d.name} cannot be read: {d.problem}" for d in documents if d.problem]
    notes: list[str] = []
    absent: dict[str, str] = {}
    found: dict[str, _Found] = {}
    foreign: list[str] = []
    short: dict[str, list[str]] = {}
    for document in documents:
        for name, entry in _entries(document, problems, foreign):
            try:
                made = _read_dimension(name, entry, document)
            except _NotLongError:
                short.setdefault(document.name, []).append(name)
            except ValueError as error:
                found.pop(name, None)
                absent[name] = f"{document.name}: {error}"
                problems.append(f"{document.name}: {name} {error}")
            else:
                absent.pop(name, None)
                notes += _scored_twice(path, name, found.get(name), made)
                found[name] = made
    foreign += [
        f"{file} has scores of whole videos, as VBench's suite for short ones makes them, of "
        f"{', '.join(names)}"
        for file, names in short.items()
    ]
    if not found and not absent:
        _refuse(path, documents, foreign, problems)
    problems += foreign
    weights = {
        name: _weights(name, found[name], problems, notes) for name in FUSED if name in found
    }
    for name, dimension in found.items():
        _compare(name, dimension, problems, notes)
    if bare := [name for name, dimension in found.items() if not dimension.items]:
        notes.append(f"scores without clips, which cannot be checked: {', '.join(bare)}")
    return Run(
        clips={name: _clips(d.items) for name, d in found.items() if d.items},
        reported={name: d.score for name, d in found.items()},
        weights=weights,
        files=sorted({d.document.name for d in found.values()}),
        problems=problems,
        notes=notes,
        absent=absent,
    )


def _refuse(
    path: Path, documents: Sequence[Document], foreign: Sequence[str], problems: Sequence[str]
) -> None:
    if foreign:
        raise ValueError(f"{path} holds no results of VBench-Long: {'; '.join(foreign[:3])}")
    if problems:
        raise ValueError(f"no scores in {path}: {'; '.join(problems[:3])}")
    what = "no dimension of VBench in its JSON files" if documents else "no *_eval_results.json"
    raise ValueError(f"{path} holds no results of VBench-Long: {what}")


def _entries(document: Document, problems: list[str], foreign: list[str]) -> list[tuple[str, Any]]:
    """The dimensions of a file that are VBench-Long's; others are named."""
    if not isinstance(document.content, dict):
        return []
    content = {dimension_name(key): entry for key, entry in document.content.items()}
    known = [(name, entry) for name, entry in content.items() if name in DIMENSIONS]
    unknown = [name for name in content if name not in DIMENSIONS]
    suite = sister_suite(frozenset(unknown))
    if suite:
        foreign.append(f"{document.name} is of {suite} ({', '.join(sorted(unknown)[:3])})")
        return []  # I2V has some names of ours, scored otherwise
    if known or re.search(r"eval_results?\.json$", document.name):
        problems += [f"{document.name} has the unknown dimension `{name}`" for name in unknown]
    return known


def _read_dimension(name: str, entry: Any, document: Document) -> _Found:
    """Read `[score, clips, ...]`, or the score alone."""
    if not isinstance(entry, list):
        return _Found(document, _number(entry, "its score"))
    if not entry:
        raise ValueError("is empty")
    items = entry[1] if len(entry) > 1 else []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("has no list of clips")
    read = [_read_item(name, item) for item in items]
    if read and not any(_is_clip(item.path) for item in read):
        raise _NotLongError
    return _Found(document, _number(entry[0], "its score"), read)


def _read_item(name: str, item: Mapping[str, Any]) -> _Item:
    path = item.get("video_path")
    if not isinstance(path, str):
        raise ValueError("has a clip without `video_path`")
    label = f"the clip {PurePosixPath(_clip_part(path)).name}"
    result = _number(item.get("video_results"), label)
    if name not in FUSED or item.get("inclip_score") is None:
        return _Item(path, result)
    between, mapped = (
        None if item.get(key) is None else _number(item[key], label)
        for key in ("clip2clip_score", "mapped_clip2clip_score")
    )
    if mapped is None and between is not None:
        mapped = map_clip_to_clip(name, between)
    return _Item(path, result, _number(item["inclip_score"], label), between, mapped)


def _number(value: Any, what: str) -> float:
    """A finite number; VBench writes the dynamic degree as true and false."""
    if not isinstance(value, int | float):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"has no number: {what} is {kind}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"has no number: {what} is {number}")
    return number


def _clip_part(path: str) -> str:
    """The part that names the clip; consistencies append the name of the video to the path."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return next((part for part in reversed(parts) if _CLIP.fullmatch(part)), path)


_CLIP = re.compile(r"(.*)_(\d{3,9}|full)\.\w+", re.DOTALL)


def _is_clip(path: str) -> bool:
    folders = PurePosixPath(path.replace("\\", "/")).parts
    return bool(
        {"split_clip", "filtered_clips"} & set(folders) or _CLIP.fullmatch(_clip_part(path))
    )


def _clip_name(path: str) -> tuple[str, int]:
    """The long video and the number of the clip."""
    if matched := _CLIP.fullmatch(_clip_part(path)):
        return matched[1], 0 if matched[2] == "full" else int(matched[2])
    return PurePosixPath(path).stem, 0


def _clips(items: Sequence[_Item]) -> list[ClipScore]:
    return [
        ClipScore(
            *_clip_name(item.path),
            score=item.result if item.in_clip is None else item.in_clip,
            clip_to_clip=item.clip_to_clip,
        )
        for item in items
    ]


def _scored_twice(path: Path, name: str, earlier: _Found | None, later: _Found) -> list[str]:
    if earlier is None or earlier.score == later.score:
        return []
    if earlier.document.folder != later.document.folder:
        raise ValueError(
            f"{path} holds several runs: {name} is {earlier.score:.6g} in {earlier.document.name} "
            f"and {later.score:.6g} in {later.document.name}; give one of their folders"
        )
    return [f"{name} was scored twice; {later.document.name} counts"]


def _weights(name: str, found: _Found, problems: list[str], notes: list[str]) -> Weights | None:
    """The weights that the scores of the clips were fused with, as they tell."""
    fused = [item for item in found.items if item.in_clip is not None and item.mapped]
    if not fused:  # clips with their own consistency alone, or videos of one clip each
        alone = found.items and all(item.in_clip is None for item in found.items)
        return DEFAULT if alone else None
    own = np.array([item.in_clip for item in fused])
    mapped = np.array([item.mapped for item in fused])
    results = np.array([item.result for item in fused])

    def explains(weights: Weights) -> bool:
        made = weights.in_clip * own + weights.clip_to_clip * mapped
        return bool(np.allclose(made, results, rtol=0, atol=_CLOSE))

    if _maps_otherwise(name, fused):
        notes.append(
            f"{name}: similarities between clips are mapped by another table than VBench's"
        )
    fits = [weights for weights in (DEVELOPER, DEFAULT) if explains(weights)]
    if len(fits) == 1:
        return fits[0]
    solved, _, rank, _ = np.linalg.lstsq(np.stack([own, mapped], axis=1), results, rcond=None)
    weights = Weights(*(round(float(weight), 6) for weight in solved))
    if not fits and rank == 2 and explains(weights):
        return weights
    if not fits:
        problems.append(f"{name}: the scores of its clips are no weighted sum of their parts")
    return None


def _maps_otherwise(name: str, items: Sequence[_Item]) -> bool:
    """Whether similarities between clips were mapped otherwise than VBench's table does."""
    return any(
        item.clip_to_clip is not None
        and item.mapped is not None
        and abs(map_clip_to_clip(name, item.clip_to_clip) - item.mapped) > _CLOSE
        for item in items
    )


def _compare(name: str, found: _Found, problems: list[str], notes: list[str]) -> None:
    """Say so if the score that a file states is not what its clips make.

    VBench means to average over videos, and finds a video by the folder and the name of the clip;
    where the folder is the clip's own path, this is an average over clips.
    """
    if not found.items:
        return
    scale = 100 if name in PERCENT else 1
    results = [item.result / scale for item in found.items]
    videos = mean_over_groups([_clip_name(item.path)[0] for item in found.items], results)
    named = mean_over_groups([_official_video(item.path) for item in found.items], results)
    clips = mean(results)

    def states(value: float, tolerance: float = _SAME) -> bool:
        return math.isclose(found.score, value, rel_tol=tolerance, abs_tol=1e-12)

    if states(videos) or states(named):
        return
    if states(clips):
        notes.append(f"{name}: the mean over clips; that over videos is {videos:.6f}")
    elif not (name in FUSED and found.items[0].in_clip is None and states(clips, _FRAME_WEIGHED)):
        problems.append(
            f"{name}: the file says {found.score:.6f}, which counts; its clips make {videos:.6f}"
        )


def _official_video(path: str) -> str:
    """What VBench takes for the video of a clip: the name up to the first `_`."""
    folder, found, _ = path.partition("filtered_clips")
    return (folder if found else "") + PurePosixPath(path).name.split("_")[0]
