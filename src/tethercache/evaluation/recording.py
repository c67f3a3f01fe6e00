"""Frames to numbers: what is measured while frames pass, and what it says in the end.

Files and the stream of a video in progress are measured by the same class, so that they agree.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tethercache.evaluation.drift import (
    DEFAULT_PROTOCOL,
    PROTOCOLS,
    curve,
    mean_curve,
    onset,
    start_end,
    stretches,
    vde,
)
from tethercache.evaluation.evidence import Evidence, gather
from tethercache.evaluation.metrics.frame import Frame, Image
from tethercache.evaluation.metrics.metric import Change, Metric, Series, Values, Whole
from tethercache.evaluation.verdict import THRESHOLDS, Threshold, Verdict, furthest, judge
from tethercache.state import State, as_array, as_tensor

FEWEST_FRAMES = 8
"""Of a video with a start and an end to compare."""

_HALF_SECOND = 0.5
_MANY_NUMBERS = 8  # from here on a measurement is kept in single precision


class _Recorder:
    """The measurements of one metric as they come in."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._indices, self._times, self._values = array("q"), array("d"), array("d")
        self._shape: tuple[int, ...] = ()
        self._next = 0.0

    def add(self, frame: Frame, every: int) -> None:
        if self.metric.cadence == "sampled" and frame.index % every:
            return
        if self.metric.cadence == "half second":
            if frame.time < self._next - 1e-6:
                return
            self._next += _HALF_SECOND
        value = self.metric.measure(frame)
        if value is None:
            return
        values = np.asarray(value, dtype=np.float64)
        if not self._indices:
            self._shape = values.shape
            self._values = array("f" if values.size >= _MANY_NUMBERS else "d")
        self._values.extend(values.ravel())
        self._indices.append(frame.index)
        self._times.append(frame.time)

    def state_dict(self) -> State:
        return {
            "indices": as_tensor(self._indices),
            "times": as_tensor(self._times),
            "values": as_tensor(self._values),
            "shape": list(self._shape),
            "next": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._indices, self._times = as_array(state["indices"]), as_array(state["times"])
        self._values = as_array(state["values"])
        self._shape, self._next = tuple(state["shape"]), state["next"]

    def series(self, duration: float) -> Series | None:
        if not self._indices:
            return None
        return Series(
            indices=np.array(self._indices, dtype=np.int64),
            times=np.array(self._times),
            values=np.array(self._values, dtype=np.float64).reshape(-1, *self._shape),
            duration=duration,
        )


@dataclass(frozen=True)
class Pace:
    """How regularly the frames of a video follow each other.

    Attributes:
        gap: seconds from one frame to the next, the median.
        odd: how many gaps are another by half.
        longest: the longest gap.
        varies: so many are odd that motion and flicker have no unit.
    """

    gap: float
    odd: int
    longest: float
    varies: bool

    MOST_ODD = 0.05
    """The share of odd gaps up to which a video has one rate: frames get lost."""

    @classmethod
    def of(cls, times: Sequence[float] | Values) -> Pace:
        """The pace of frames shown at these seconds, in order."""
        gaps = np.diff(np.asarray(times, dtype=np.float64))
        if not len(gaps):
            return cls(0.0, 0, 0.0, False)
        gap = float(np.median(gaps))
        odd = int(((gaps > 1.5 * gap) | (gaps < 0.5 * gap)).sum())
        return cls(gap, odd, float(gaps.max()), odd > max(2, cls.MOST_ODD * len(gaps)))

    def warnings(self) -> list[str]:
        """What a reader must know about it; empty for a regular pace."""
        if self.varies:
            return [
                "has a variable frame rate: motion, flicker and standstill have no unit and were "
                "not measured; colour, saturation and sharpness were"
            ]
        if self.odd:
            frames = "1 frame is" if self.odd == 1 else f"{self.odd} frames are"
            return [
                f"{frames} not {self.gap:.3g} s behind the one before but up to {self.longest:.3g}"
            ]
        return []


@dataclass
class Numbers:
    """What the measurements of a video say; the attributes are those of `VideoResult`."""

    verdict: Verdict = field(default_factory=lambda: judge({}))
    evidence: Evidence = field(default_factory=Evidence)
    metrics: dict[str, float | None] = field(default_factory=dict)
    signed: dict[str, float | None] = field(default_factory=dict)
    start: dict[str, float | None] = field(default_factory=dict)
    end: dict[str, float | None] = field(default_factory=dict)
    start_end: dict[str, dict[str, float | None]] = field(
        default_factory=lambda: {name: {} for name in PROTOCOLS}
    )
    vde: dict[str, float | None] = field(default_factory=dict)
    onset: dict[str, float | None] = field(default_factory=dict)
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    events: dict[str, list[float]] = field(default_factory=dict)

    @property
    def can_tell(self) -> bool:
        """Whether anything could be compared."""
        return any(self.metrics.get(threshold.metric) is not None for threshold in THRESHOLDS)

    @property
    def worst(self) -> dict[str, dict[str, float | None]]:
        """The window of each symptom that is furthest from the start of its shot."""
        found: dict[str, dict[str, float | None]] = {}
        for threshold in THRESHOLDS:
            window = furthest(self.evidence, threshold)
            if window is not None:
                found[threshold.metric] = {
                    "change": window.changes[threshold.metric],
                    "begin": window.begin,
                    "end": window.end,
                    "tolerance": window.tolerance,
                }
        return found

    def as_dict(self) -> dict[str, Any]:
        """By name, the verdict in parts."""
        names = ("metrics", "signed", "start", "end", "start_end", "vde", "onset", "curves")
        edits = [vars(edit) for edit in self.evidence.edits]
        return {name: getattr(self, name) for name in names} | {
            "events": self.events,
            "edits": [dict(edit) for edit in edits],
            "worst": self.worst,
            "verdict": self.verdict.word,
            "components": dict(self.verdict.components),
            "reasons": list(self.verdict.reasons),
            "notes": list(self.verdict.notes),
        }


class Recording:
    """All measurements of the frames so far: about 20 kB for a second of video.

    Args:
        metrics: to measure, by name.
        every: measure every n-th frame, where the metric does not ask for all.
    """

    def __init__(self, metrics: Mapping[str, Metric], every: int) -> None:
        self.metrics = metrics
        self.times = array("d")
        self.shape: tuple[int, ...] | None = None
        self._every = every
        self._recorders = {name: _Recorder(metric) for name, metric in metrics.items()}
        self._before: Frame | None = None

    def add(self, time: float, rgb: Image) -> None:
        """Measure the next frame, uint8 `[H, W, 3]`, shown at `time` seconds."""
        frame = Frame(len(self.times), time, rgb, self._before)
        for recorder in self._recorders.values():
            recorder.add(frame, self._every)
        frame.forget_previous()
        self._before = frame
        self.times.append(time)
        self.shape = rgb.shape

    def state_dict(self) -> State:
        """All measurements so far, and the latest frame; see `tethercache.state`."""
        before = self._before
        return {
            "times": as_tensor(self.times),
            "metrics": {name: one.state_dict() for name, one in self._recorders.items()},
            "before": None if before is None else as_tensor(before.rgb),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another recording of the same metrics was; forget what is here."""
        self.times = as_array(state["times"])
        for name, saved in state["metrics"].items():
            self._recorders[name].load_state_dict(saved)
        self._before = None
        self.shape = None
        if state["before"] is not None:
            rgb = np.array(state["before"], dtype=np.uint8)
            self._before = Frame(len(self.times) - 1, self.times[-1], rgb)
            self.shape = rgb.shape

    @property
    def is_long_enough(self) -> bool:
        """Whether there are frames for a start and an end."""
        return len(self.times) >= FEWEST_FRAMES

    def series(self, name: str, duration: float) -> Series | None:
        """What was measured of one metric; None if nothing was."""
        return self._recorders[name].series(duration)

    def summarise(self, duration: float, rate_varies: bool = False) -> Numbers:
        """Numbers and verdict of a video of `duration` seconds.

        Args:
            duration: seconds.
            rate_varies: leave out what compares neighbouring frames.
        """
        series = {name: self.series(name, duration) for name in self.metrics}
        numbers = Numbers()
        for name, metric in self.metrics.items():
            measured = series[name]
            if measured is None or (rate_varies and metric.needs_rate):
                numbers.metrics[name] = None
            elif isinstance(metric, Whole):
                _add_whole(numbers, name, metric, measured)
            elif isinstance(metric, Change):
                _add_change(numbers, name, metric, measured)
        if rate_varies:
            series |= {"motion_level": None, "motion_retention": None}
        numbers.evidence = gather(self.metrics, series, duration)
        numbers.verdict = judge(numbers.metrics, numbers.evidence)
        for threshold in THRESHOLDS:
            change, measured = self.metrics.get(threshold.metric), series.get(threshold.metric)
            if isinstance(change, Change) and measured is not None:
                numbers.onset[threshold.metric] = _onset(numbers, threshold, change, measured)
        return numbers


def _add_whole(numbers: Numbers, name: str, metric: Whole, series: Series) -> None:
    numbers.metrics[name] = metric.summarise(series)
    if events := metric.events(series):
        numbers.events[name] = events
    if series.values.ndim == 1:
        numbers.curves[name] = mean_curve(series)


def _add_change(numbers: Numbers, name: str, metric: Change, series: Series) -> None:
    value = start_end(series, DEFAULT_PROTOCOL, metric.change)
    numbers.metrics[name] = value
    if metric.is_signed and value is not None:
        numbers.signed[name] = value
        numbers.metrics[name] = abs(value)
    start, end = stretches(series, DEFAULT_PROTOCOL)
    if series.values.ndim == 1 and len(start) and len(end):
        numbers.start[name], numbers.end[name] = float(start.mean()), float(end.mean())
        numbers.vde[name] = vde(series)
    for protocol in PROTOCOLS:
        numbers.start_end[protocol][name] = start_end(series, protocol, metric.change)
    numbers.curves[name] = curve(series, metric)


def _onset(numbers: Numbers, threshold: Threshold, metric: Change, series: Series) -> float | None:
    """The second from which on a symptom is there, in the shot in which it is worst."""
    if numbers.verdict.components.get(threshold.component) != "drifting":
        return None
    window = furthest(numbers.evidence, threshold)
    if window is None:
        return None
    limit = threshold.limit(window.tolerance)
    points = curve(series.part(window.shot.begin, window.shot.end), metric)
    began = onset(points, lambda value: threshold.is_beyond(value, limit))
    return None if began is None else window.shot.begin + began
