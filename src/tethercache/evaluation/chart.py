"""A curve a second to a small chart: where its lines, marks and words lie, for the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.result import VideoResult
from tethercache.evaluation.tables import number, time
from tethercache.evaluation.verdict import THRESHOLDS, Threshold

TITLES = {
    "colour_difference": "Colour difference, ΔE",
    "chroma": "Chroma, change",
    "log_sharpness": "Log sharpness, change",
    "motion_retention": "Motion, of the start",
    "luma": "Luma, change",
    "embedding_drift": "Embedding, 1 - cosine",
    "motion_level": "Motion, px a frame",
}
MOST_CHARTS = 6
WIDTH, HEIGHT = 300, 146
LEFT, RIGHT, TOP, FLOOR = 34, 258, 16, 126
_LINES = ("ours", "base")
_NEAR = 11  # two words closer than this would lie on each other


@dataclass(frozen=True)
class Mark:
    """A place, with what is written there."""

    x: float
    y: float
    text: str = ""


@dataclass(frozen=True)
class Stretch:
    """A part of the time, with what is there."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Line:
    """One video in a chart.

    Attributes:
        kind: `ours` or `base`.
        path: through the values.
        marks: a few of the places.
        last: the last value, in words.
        extreme: that which is furthest from 0, of ours.
        worst: the window that counts for the verdict, where it is no good one.
    """

    kind: str
    path: str
    marks: Sequence[Mark]
    last: Mark | None
    extreme: Mark | None
    worst: Stretch | None


@dataclass(frozen=True)
class Chart:
    """All that the template draws; coordinates are those of the picture.

    Attributes:
        title: what is measured.
        label: the chart in words, for whoever does not see it.
        window: where the stretch at the start ends, with which all is compared.
        rows: values on the left.
        columns: seconds below.
        limits: where drift begins.
        edits: cuts, fades, crossfades and flashes.
        lines: ours and the baseline's.
    """

    title: str
    label: str
    window: float
    rows: Sequence[Mark]
    columns: Sequence[Mark]
    limits: Sequence[Mark]
    edits: Sequence[Stretch]
    lines: Sequence[Line]


def charts(videos: Sequence[VideoResult]) -> list[Chart]:
    """The charts of a video, or of a video and its baseline."""
    names = [name for name in TITLES if any(name in video.curves for video in videos)]
    made = [_chart(name, videos) for name in names[:MOST_CHARTS]]
    return [chart for chart in made if chart is not None]


def limits_of(threshold: Threshold) -> list[float]:
    """Where drift begins, for rising and falling values."""
    if threshold.is_ratio:
        return [threshold.drifting]
    return [threshold.drifting, -threshold.drifting * threshold.falls]


def _chart(name: str, videos: Sequence[VideoResult]) -> Chart | None:
    curves = [video.curves.get(name, []) for video in videos]
    values = [value for curve in curves for value in curve if value is not None]
    if not values:
        return None
    limits = [limit for t in THRESHOLDS if t.metric == name for limit in limits_of(t)]
    low, high = min(0.0, *values), max(0.0, *values)
    high = max([high, *(limit * 1.15 for limit in limits if limit > 0)])
    if low < 0:
        low = min([low, *(limit * 1.15 for limit in limits if limit < 0)])
    seconds = max(map(len, curves))

    def x(second: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * second / max(seconds, 1), 1)

    def y(value: float) -> float:
        return round(FLOOR - (FLOOR - TOP) * (value - low) / max(high - low, 1e-9), 1)

    lines = [
        replace(_line(kind, video.curves.get(name, []), x, y), worst=_worst(name, video, x))
        for kind, video in zip(_LINES, videos, strict=False)
    ]
    shown = [limit for limit in limits if low <= limit <= high]
    sign = "<" if METRICS[name].better == "higher" else ">"
    return Chart(
        title=TITLES[name],
        label=_in_words(name, videos, limits),
        window=x(min(DEFAULT_PROTOCOL.seconds, seconds / 2)),
        rows=[Mark(LEFT, y(tick), f"{tick:g}") for tick in ticks(low, high)],
        columns=[Mark(x(second), FLOOR, f"{second:g}") for second in ticks(0, seconds)],
        limits=[
            Mark(LEFT, y(limit), f"drift {'<' if limit < 0 else sign} {limit:g}") for limit in shown
        ],
        edits=[
            _stretch(float(edit["begin"]), float(edit["end"]), str(edit["kind"]), x)
            for video in videos
            for edit in video.edits
        ],
        lines=_apart(lines),
    )


def _line(
    kind: str,
    curve: Sequence[float | None],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Line:
    points: list[str] = []
    places: list[Mark] = []
    pen = "M"
    for second, value in enumerate(curve):
        if value is None:
            pen = "M"
            continue
        places.append(Mark(x(second + 0.5), y(value), number(value)))
        points.append(f"{pen}{places[-1].x:g} {places[-1].y:g}")
        pen = "L"
    step = max(1, math.ceil(len(places) / 8))
    offset = step // 2 if kind == "base" else 0  # the marks of two lines that lie on each other
    marks = [Mark(place.x, place.y) for place in places[offset::step]]
    last = Mark(places[-1].x, places[-1].y + 3.5, places[-1].text) if places else None
    extreme = _extreme(places, y(0.0)) if kind == "ours" else None
    return Line(kind, "".join(points), marks, last, extreme, worst=None)


def _worst(name: str, video: VideoResult, x: Callable[[float], float]) -> Stretch | None:
    """The worst window of a symptom that is one."""
    window = video.worst.get(name)
    words = [video.components.get(t.component) for t in THRESHOLDS if t.metric == name]
    if window is None or words == ["stable"]:
        return None
    text = f"worst window: {number(window['change'])}"
    begin, end = (float(window[place] or 0) for place in ("begin", "end"))
    return _stretch(begin, end, text, x)


def _stretch(begin: float, end: float, text: str, x: Callable[[float], float]) -> Stretch:
    where = f"{time(begin)}" if end - begin < 1 else f"{begin:.0f} to {time(end)}"
    return Stretch(x(begin), round(max(x(end) - x(begin), 1.5), 1), f"{text}, {where}")


def _extreme(places: Sequence[Mark], zero: float) -> Mark | None:
    """The place furthest from 0, with its value above or below it; None if it is near the end."""
    furthest = max(places, key=lambda place: abs(place.y - zero), default=None)
    if furthest is None or furthest is places[-1] or furthest.x > RIGHT - 40:
        return None
    has_room_below = furthest.y > zero and furthest.y + 12 < FLOOR
    y = furthest.y + (11 if has_room_below else -5)
    return Mark(max(furthest.x, LEFT + 16), y, furthest.text)


def _apart(lines: Sequence[Line]) -> list[Line]:
    """Move the last values of two lines apart, so that both can be read."""
    if len(lines) < 2 or lines[0].last is None or lines[1].last is None:
        return list(lines)
    lower, upper = sorted(lines, key=lambda line: -(line.last.y if line.last else 0.0))[:2]
    assert lower.last is not None
    assert upper.last is not None
    gap = _NEAR - (lower.last.y - upper.last.y)
    if gap <= 0:
        return list(lines)
    middle = (lower.last.y + upper.last.y) / 2
    moved = {lower.kind: middle + _NEAR / 2, upper.kind: middle - _NEAR / 2}
    return [
        replace(line, last=Mark(line.last.x, moved[line.kind], line.last.text))
        for line in lines
        if line.last is not None
    ]


def _in_words(name: str, videos: Sequence[VideoResult], limits: Sequence[float]) -> str:
    """What the chart shows: start, extreme and end of each line, and the limits."""
    said = []
    for label, video in zip(("", "the baseline: "), videos, strict=False):
        known = [(s, v) for s, v in enumerate(video.curves.get(name, [])) if v is not None]
        if known:
            second, most = max(known, key=lambda point: abs(point[1]))
            said.append(
                f"{label}{number(known[0][1])} at the start, {number(known[-1][1])} at the end, "
                f"furthest from 0 at {time(second)} with {number(most)}"
            )
    if limits:
        beyond = "below" if METRICS[name].better == "higher" else "beyond"
        said.append(f"drift is {beyond} {' and '.join(f'{limit:g}' for limit in limits)}")
    return f"{TITLES[name]}, second by second: {'; '.join(said)}"


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
