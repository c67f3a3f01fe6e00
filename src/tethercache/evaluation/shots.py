"""Edits, named as what they are, and the shots between them, in which drift can be measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tethercache.evaluation.metrics.cuts import Cuts, usual
from tethercache.evaluation.metrics.layout import compare, likeness
from tethercache.evaluation.metrics.metric import Series, Values

EditKind = Literal["cut", "crossfade", "fade", "flash", "scene change"]

_FLASH_CONTENT, _FLASH_RATIO = 15.0, 2.5  # HSV difference, and over that of the neighbours
_FLASH_SECONDS = 1.0
_FADED, _UNFADED = 0.35, 0.9  # contrast over the usual one
_SHORTEST_FADE, _LONGEST_FADE = 0.4, 4.0
_SAME, _LASTING, _OTHER = 0.6, 0.66, 0.15  # correlations of layouts of one scene, and of two
_BLEND_SHARES, _BLEND_SUM = 0.2, 0.25  # least share of each, and how far their sum is from 1
_BLEND_REST = 0.1  # what a mix of before and after may leave unexplained
_PART, _PART_RATIO, _PART_SECONDS = 0.3, 4.0, 2.0  # of a picture that is replaced in part
_HALF_SECOND = 0.5


@dataclass(frozen=True)
class Edit:
    """Something that an editor does, and no model by drifting.

    Attributes:
        kind: cut, crossfade, fade (from or to an empty picture), flash, or a scene change that is
            none of these.
        begin: second at which it begins.
        end: second at which it is over; of a cut, where the new shot begins.
    """

    kind: EditKind
    begin: float
    end: float


@dataclass(frozen=True)
class Shot:
    """A stretch without edits, from `begin` to before `end`, in seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


def find_edits(series: Mapping[str, Series | None]) -> list[Edit]:
    """The edits of a video by the series of its metrics, in order of time."""
    changes, luma, layout = (series.get(k) for k in ("cuts", "flicker", "layout_persistence"))
    if changes is None or luma is None or layout is None:
        return []
    fades = _fades(luma)
    cuts = [t for t in Cuts().events(changes) if not _inside(t, fades)]
    flashes, cuts = _empty_flashes(cuts, layout)
    flashes += [
        edit
        for edit in _flashes(changes, luma, cuts + [f.begin for f in flashes])
        if not _inside(edit.begin, fades)
    ]
    found = [*fades, *flashes, *(Edit("cut", time, time) for time in cuts)]
    blends = _transitions(layout, series.get("repetition"))
    found += [b for b in blends if not any(_touch(b, edit) for edit in found)]
    return sorted(found, key=lambda edit: edit.begin)


def shots(duration: float, edits: Sequence[Edit]) -> list[Shot]:
    """The stretches between edits; a flash is inside its shot."""
    borders = [0.0]
    for edit in edits:
        if edit.kind != "flash":
            borders += [edit.begin, edit.end]
    borders.append(duration)
    pairs = itertools.zip_longest(borders[::2], borders[1::2])
    return [Shot(begin, end) for begin, end in pairs if end - begin > 1e-6]


def _inside(time: float, edits: Sequence[Edit]) -> bool:
    return any(edit.begin - 0.2 <= time <= edit.end + 0.2 for edit in edits)


def _touch(one: Edit, two: Edit) -> bool:
    return one.begin - 1.0 <= two.end and two.begin <= one.end + 1.0


def _fades(luma: Series) -> list[Edit]:
    """Stretches whose contrast vanishes, with the way there and back."""
    contrast, times = luma.values[:, 1], luma.times
    usually = float(np.median(contrast))
    if usually < 1.0:
        return []
    found: list[Edit] = []
    for begin, end in _runs(contrast < _FADED * usually):
        around = (times > times[begin] - _LONGEST_FADE) & (times < times[end - 1] + _LONGEST_FADE)
        level = min(usually, float(np.percentile(contrast[around], 75)))
        while begin > 0 and contrast[begin - 1] < _UNFADED * level:
            begin -= 1
        while end < len(contrast) and contrast[end] < _UNFADED * level:
            end += 1
        until = float(times[end]) if end < len(times) else luma.duration
        if until - times[begin] <= _LONGEST_FADE and not any(
            edit.begin == times[begin] for edit in found
        ):
            kind: EditKind = "fade" if until - times[begin] > _SHORTEST_FADE else "flash"
            found.append(Edit(kind, float(times[begin]), until))
    return found


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _empty_flashes(cuts: list[float], layout: Series) -> tuple[list[Edit], list[float]]:
    """Pairs of cuts between which another picture shows for a moment, then the shot goes on."""
    flashes, rest, index = [], [], 0
    while index < len(cuts):
        time = cuts[index]
        after = [t for t in cuts[index + 1 :] if t - time <= _FLASH_SECONDS]
        before_layout = _at(layout, time - _HALF_SECOND)
        after_layout = _at(layout, after[-1] + _HALF_SECOND) if after else None
        if (
            before_layout is not None
            and after_layout is not None
            and likeness(before_layout, after_layout) > _SAME
        ):
            flashes.append(Edit("flash", time, after[-1]))
            index += len(after)
        else:
            rest.append(time)
        index += 1
    return flashes, rest


def _at(series: Series, time: float) -> Values | None:
    """The measurement nearest to a time; None outside the video."""
    if not -_HALF_SECOND < time < series.duration + _HALF_SECOND:
        return None
    return np.asarray(series.values[int(np.abs(series.times - time).argmin())])


def _flashes(changes: Series, luma: Series, known: Sequence[float]) -> list[Edit]:
    """Sudden changes of brightness or colour, without another layout, that go back."""
    content = changes.values[:, 0]
    sudden = (content >= _FLASH_CONTENT) & (content >= _FLASH_RATIO * usual(changes.values)[:, 0])
    found: list[Edit] = []
    for time in changes.times[sudden]:
        if any(abs(time - other) < _FLASH_SECONDS for other in known):
            continue
        if found and time <= found[-1].end + _FLASH_SECONDS / 4:
            found[-1] = Edit("flash", found[-1].begin, float(time))
            continue
        back = _goes_back(luma, float(time))
        if back is not None:
            found.append(Edit("flash", float(time), back))
    return found


def _goes_back(luma: Series, time: float) -> float | None:
    """When mean and contrast are again as before a flash; None if they stay."""
    near = (luma.times < time - 1e-6) & (luma.times >= time - 0.3)
    after = (luma.times >= time - 1e-6) & (luma.times < time + _FLASH_SECONDS)
    if not near.any() or not after.any():
        return None
    before = luma.values[near].mean(axis=0)
    away = np.abs(luma.values[after] - before).sum(axis=1)
    back = np.flatnonzero(away <= 0.5 * away[: max(1, len(away) // 3)].max())
    if len(back):
        return float(luma.times[after][back[0]])
    return luma.duration if time > luma.duration - _FLASH_SECONDS else None


def _transitions(layout: Series, pictures: Series | None) -> list[Edit]:
    """Where another layout takes over from one that lasted, or one that lasts from another.

    It is a crossfade if the picture in between is a mix of both, else a change of scene.
    """
    values, count = layout.values, len(layout.times)
    found: list[tuple[float, Edit]] = []
    for reach in (1, 2, 3):
        for a in range(4, count - 2 * reach - 4):
            b = a + 2 * reach
            before = min(likeness(values[a - lag], values[a]) for lag in (2, 4))
            after = min(likeness(values[b], values[b + lag]) for lag in (2, 4))
            across = max(
                likeness(values[a], values[b]),
                likeness(values[a - 2], values[b + 2]),
                likeness(values[a - 4], values[b + 4]),
            )
            if max(before, after) < _LASTING or across > _OTHER:
                continue
            begin, end = float(layout.times[a]), float(layout.times[b])
            is_mix = pictures is not None and _is_mix(pictures, begin, end)
            kind: EditKind = "crossfade" if is_mix else "scene change"
            found.append((across, Edit(kind, begin, end)))
    kept: list[Edit] = []
    for _, edit in sorted(found, key=lambda item: (item[1].kind, item[0])):
        if not any(_touch(edit, other) for other in kept):
            kept.append(edit)
    return kept


def _is_mix(pictures: Series, begin: float, end: float) -> bool:
    """Whether the picture in the middle is a mix of those before and after."""
    shown = (_at(pictures, t) for t in (begin, (begin + end) / 2, end))
    one, middle, two = (np.asarray(x) - np.mean(x) for x in shown if x is not None)
    sides = np.stack([one, two], axis=1)
    shares, *_ = np.linalg.lstsq(sides, middle, rcond=None)
    rest = float(np.square(middle - sides @ shares).mean())
    size = float(np.square(middle).mean())
    fits = rest < _BLEND_REST * size and abs(float(shares.sum()) - 1) < _BLEND_SUM
    return bool(size > 1.0 and fits and (shares > _BLEND_SHARES).all())


def replacement(series: Mapping[str, Series | None], inside: Shot) -> float | None:
    """When a part of the picture was replaced at once, and for good, while the rest stayed.

    Returns:
        The second, or None if it never happened.
    """
    changes = series.get("cuts")
    if changes is None:
        return None
    replaced, kept = changes.values[:, 1], changes.values[:, 2]
    usually = usual(changes.values)[:, 1]
    sudden = (replaced >= _PART) & (replaced >= _PART_RATIO * usually) & (kept >= _PART)
    times = changes.times[sudden]
    for time in times:
        if not inside.begin + _PART_SECONDS <= time <= inside.end - _PART_SECONDS:
            continue
        near = np.abs(times - time) < _PART_SECONDS  # what comes and goes is an effect or a light
        if near.sum() == 1 and not _comes_back(series.get("layout_persistence"), float(time)):
            return float(time)
    return None


def _comes_back(layout: Series | None, time: float) -> bool:
    """Whether the picture of a moment ago is there again soon after."""
    if layout is None:
        return False
    before, after = _at(layout, time - 0.75), _at(layout, time + _PART_SECONDS)
    return (
        before is not None and after is not None and compare(before, after).replaced < 0.5 * _PART
    )
