"""Edits, named as what they are, and the shots between them, in which drift can be measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tethercache.evaluation.metrics.cuts import Cuts, usual
from tethercache.evaluation.metrics.layout import likeness, replaced
from tethercache.evaluation.metrics.metric import Series, Values

EditKind = Literal["cut", "crossfade", "fade", "flash"]

_FLASH_CONTENT, _FLASH_RATIO = 15.0, 2.5  # HSV difference, and over that of the neighbours
_FLASH_SECONDS = 1.0
_FADED, _UNFADED = 0.35, 0.9  # contrast over the usual one
_LONGEST_FADE = 6.0
_SAME, _OTHER = 0.6, 0.25  # correlations of the layouts of one scene, and of two
_BLEND_GAP = 0.35  # by which a crossfade's layouts are less alike than usual at that distance
_BLEND_SHARES, _BLEND_SUM = 0.2, 0.25  # least share of each, and how far their sum is from 1
_BLEND_REST = 0.1  # what a mix of before and after may leave unexplained
_HALF_SECOND = 0.5


@dataclass(frozen=True)
class Edit:
    """Something that an editor does, and no model by drifting.

    Attributes:
        kind: cut, crossfade, fade (from or to an empty picture) or flash.
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
    blends = _crossfades(layout, series.get("repetition"))
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
    level = float(np.median(contrast))
    if level < 1.0:
        return []
    found: list[Edit] = []
    for begin, end in _runs(contrast < _FADED * level):
        while begin > 0 and contrast[begin - 1] < _UNFADED * level:
            begin -= 1
        while end < len(contrast) and contrast[end] < _UNFADED * level:
            end += 1
        until = float(times[end]) if end < len(times) else luma.duration
        if until - times[begin] <= _LONGEST_FADE and not any(
            edit.begin == times[begin] for edit in found
        ):
            found.append(Edit("fade", float(times[begin]), until))
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
        if found and time <= found[-1].end + _FLASH_SECONDS:
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


def _crossfades(layout: Series, pictures: Series | None) -> list[Edit]:
    """Where one lasting layout gives way to another, through a mix of both."""
    if pictures is None:
        return []
    values, count = layout.values, len(layout.times)
    found: list[tuple[float, Edit]] = []
    for reach in (1, 2, 3):
        distant = zip(values, values[2 * reach :], strict=False)
        usually = float(np.median([likeness(one, two) for one, two in distant] or [0.0]))
        for middle in range(reach + 2, count - reach - 2):
            a, b = middle - reach, middle + reach
            sides = min(likeness(values[a - 2], values[a]), likeness(values[b], values[b + 2]))
            across = likeness(values[a], values[b])
            if sides < _SAME or across > min(_OTHER, usually - _BLEND_GAP):
                continue
            begin, end = float(layout.times[a]), float(layout.times[b])
            if _is_mix(pictures, begin, end):
                found.append((across, Edit("crossfade", begin, end)))
    kept: list[Edit] = []
    for _, edit in sorted(found, key=lambda item: item[0]):
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
    changes, layout = series.get("cuts"), series.get("layout_persistence")
    if changes is None or layout is None:
        return None
    parts = changes.values[:, 1]
    sudden = (parts >= 0.15) & (parts >= 3 * usual(changes.values)[:, 1] + 0.05)
    for time in changes.times[sudden]:
        if not inside.begin + 2 <= time <= inside.end - 2:
            continue
        before, earlier = _at(layout, time - 0.75), _at(layout, time - 2.0)
        soon, later = _at(layout, time + 0.75), _at(layout, min(time + 5, inside.end - 0.5))
        if before is None or earlier is None or soon is None or later is None:
            continue
        if (
            replaced(earlier, before) < 0.1
            and min(replaced(before, soon), replaced(before, later)) > 0.2
        ):
            return float(time)
    return None
