"""What a verdict rests on: in every shot, how far each 5 s are from its start, and what else moved.

The worst window counts, not only the last one: a video may come back from what went wrong. What
changed is weighed by what was to be seen: where the camera or things move fast, or faster than at
the start, other colours are the content's own, and more is tolerated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.metrics.layout import LayoutPersistence
from tethercache.evaluation.metrics.metric import Change, Metric, Series, Values
from tethercache.evaluation.metrics.motion import FrozenSeconds
from tethercache.evaluation.shots import Edit, Shot, find_edits, replacement, shots

SHORTEST_SHOT = 4.0
"""Seconds below which a shot is too short to drift, unless it is the whole video."""
PERSISTENT = 0.7
"""Layouts that are this alike after 2 s are those of a scene that stays."""
BROKEN = 0.3
"""Layouts less alike than this, anywhere on the way, are of two scenes."""
FOR_TURNOVER, FOR_BREAK, FOR_MOTION = 4.0, 8.0, 2.0
"""How much more is tolerated for layouts less alike, and for each doubling of the motion."""

EMPTY = 2.0
"""Contrast, of 255, below which a picture shows next to nothing."""

_STEP = 1.0
_USUAL_GROWTH = 0.4  # doublings that motion comes and goes by
_LITTLE_MOTION = 0.2  # pixels a frame, added to both sides: little more of little is no growth


@dataclass(frozen=True)
class Window:
    """A stretch of a shot, compared with the start of the shot.

    Attributes:
        begin: second.
        end: second.
        changes: by metric, with their signs; None where it cannot be compared.
        shot: in which it is.
        tolerance: by how much thresholds are multiplied, at least 1.
    """

    begin: float
    end: float
    changes: Mapping[str, float | None]
    shot: Shot
    tolerance: float = 1.0


@dataclass(frozen=True)
class Evidence:
    """All windows of a video, and what happened in it.

    Attributes:
        windows: of all shots, in order of time.
        edits: in order of time.
        replaced: second at which a part of the picture was replaced for good, or None.
        frozen: longest standstill, seconds, after something moved in the same shot.
        empty: share of the frames that show next to nothing.
    """

    windows: tuple[Window, ...] = ()
    edits: tuple[Edit, ...] = ()
    replaced: float | None = None
    frozen: float = 0.0
    empty: float = 0.0


def gather(
    metrics: Mapping[str, Metric], series: Mapping[str, Series | None], duration: float
) -> Evidence:
    """Find edits, and compare every window with the start of its shot.

    Args:
        metrics: by name; those that are changes are compared.
        series: their measurements, None where there are none.
        duration: seconds of the video.
    """
    edits = find_edits(series)
    every_shot = shots(duration, edits)
    long_enough = [shot for shot in every_shot if shot.seconds >= SHORTEST_SHOT]
    found: list[Window] = []
    replaced = None
    for shot in long_enough or sorted(every_shot, key=lambda shot: -shot.seconds)[:1]:
        found += _windows(metrics, series, shot)
        replaced = replacement(series, shot) if replaced is None else replaced
    # a fast scene that freezes has another layout from then on, too
    made = shots(duration, [edit for edit in edits if edit.kind != "scene change"])
    frozen = max(_standstill(series.get("frozen_seconds"), shot) for shot in made)
    return Evidence(tuple(found), tuple(edits), replaced, frozen, _emptiness(series.get("flicker")))


def _standstill(repeats: Series | None, shot: Shot) -> float:
    """A still picture behind a cut is a title, not a standstill."""
    part = None if repeats is None else repeats.part(shot.begin, shot.end)
    found = FrozenSeconds().summarise(part) if part is not None and len(part.times) else None
    return found or 0.0


def _emptiness(luma: Series | None) -> float:
    return 0.0 if luma is None else float((luma.values[:, 1] < EMPTY).mean())


def _windows(
    metrics: Mapping[str, Metric], series: Mapping[str, Series | None], shot: Shot
) -> list[Window]:
    size = min(DEFAULT_PROTOCOL.seconds, shot.seconds / 2)
    last = shot.end - size
    begins = [*np.arange(shot.begin + size, last - 1e-6, _STEP), last]
    layouts = _likenesses(series, shot)
    turnover = FOR_TURNOVER * max(0.0, PERSISTENT - float(np.median(layouts[1])))
    grown_at_end = _growth(series, shot.begin, last, size)
    found = []
    for begin in begins:
        changes: dict[str, float | None] = {}
        for name, metric in metrics.items():
            measured = series.get(name)
            if isinstance(metric, Change) and measured is not None:
                start = measured.between(shot.begin, shot.begin + size)
                now = measured.between(begin, begin + size)
                changes[name] = metric.change(start, now) if len(start) and len(now) else None
        grown = max(grown_at_end, _growth(series, shot.begin, float(begin), size))
        on_the_way = layouts[1][layouts[0] < begin + size]
        broken = FOR_BREAK * max(0.0, BROKEN - float(on_the_way.min(initial=1.0)))
        tolerance = 1 + turnover + broken + FOR_MOTION * grown
        found.append(Window(float(begin), float(begin + size), changes, shot, tolerance))
    return found


def _growth(series: Mapping[str, Series | None], start: float, begin: float, size: float) -> float:
    """How many times motion has doubled since the start, beyond what is usual; 0 where it fell."""
    motion = series.get("motion_level")
    if motion is None:
        return 0.0
    before, now = motion.between(start, start + size), motion.between(begin, begin + size)
    if not len(before) or not len(now):
        return 0.0
    ratio = (float(now.mean()) + _LITTLE_MOTION) / (float(before.mean()) + _LITTLE_MOTION)
    return max(0.0, math.log2(ratio) - _USUAL_GROWTH)


def _likenesses(series: Mapping[str, Series | None], shot: Shot) -> tuple[Values, Values]:
    """Seconds, and how alike the layout then is to that of 2 s later; 1 where nobody knows."""
    layout = series.get("layout_persistence")
    inside = None if layout is None else layout.part(shot.begin, shot.end)
    found = [] if inside is None else LayoutPersistence().likenesses(inside)
    if inside is None or not found:
        return np.zeros(1), np.ones(1)
    return inside.times[: len(found)] + shot.begin, np.array(found)
