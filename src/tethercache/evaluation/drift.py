"""Drift: start against end under named protocols, curves with the onset, and honest statistics.

There are several published numbers called drift, which differ in the stretches that they compare
and in whether the sign is kept. Each has a name here, so that nobody compares unlike numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tethercache.evaluation.metrics.metric import Change, Series, Values
from tethercache.resampling import interval

Compare = Callable[[Values, Values], float | None]
"""Measurements `[n]` or `[n, d]` of the start, and of the end, to one number."""


@dataclass(frozen=True)
class Protocol:
    """Which stretches of a video are its start and its end.

    Attributes:
        name: to print beside every number.
        source: where it comes from.
        seconds: length of each stretch, or
        share: length of each stretch as a share of the video.
        absolute: the sign is dropped for each video, not only for the mean.
    """

    name: str
    source: str
    seconds: float = 0.0
    share: float = 0.0
    absolute: bool = False

    def window(self, duration: float) -> float:
        """Seconds of each stretch; at most half of the video, so that they never overlap."""
        return min(self.seconds or self.share * duration, duration / 2)


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("tethercache", "first and last 2 s clip, arXiv 2606.13035", seconds=2.0),
        Protocol("rolling_forcing", "first and last 5 s, arXiv 2509.25161", seconds=5.0),
        Protocol(
            "framepack", "first and last 15 %, arXiv 2504.12626, eq. 7", share=0.15, absolute=True
        ),
    )
}
DEFAULT_PROTOCOL = PROTOCOLS["rolling_forcing"]
"""The 5 s stretches for which the thresholds were found."""


def difference(start: Values, end: Values) -> float:
    """Start - end of the means: positive where a quality fell."""
    return float(start.mean() - end.mean())


def stretches(series: Series, protocol: Protocol) -> tuple[Values, Values]:
    """The measurements of the start and of the end; each may be empty."""
    window = protocol.window(series.duration)
    first = series.times < window
    last = series.times >= series.duration - window
    return series.values[first], series.values[last]


def start_end(
    series: Series, protocol: Protocol | str = DEFAULT_PROTOCOL, compare: Compare = difference
) -> float | None:
    """How far the end of a video is from its start.

    Args:
        series: the measurements.
        protocol: the stretches to compare, or their name.
        compare: makes a number of the two; by default start - end.

    Returns:
        None if a stretch has no measurement, or if `compare` cannot compare them.
    """
    protocol = PROTOCOLS[protocol] if isinstance(protocol, str) else protocol
    start, end = stretches(series, protocol)
    if not len(start) or not len(end):
        return None
    value = compare(start, end)
    return abs(value) if protocol.absolute and value is not None else value


def vde(
    series: Series, chunks: int = 10, weights: Literal["linear", "log"] = "linear"
) -> float | None:
    """Video drift error: weighted relative distance of later tenths to the first.

    The sum over i = 2..N of w_i |m_i - m_1| / m_1 with w_i = N - i + 1, or its logarithm: as in the
    code of LV-Bench, which so weighs early chunks most.

    Returns:
        None if the video is too short, or where the first chunk measures 0.
    """
    edges = np.linspace(0.0, series.duration, chunks + 1)
    chunk = np.clip(np.searchsorted(edges, series.times, side="right") - 1, 0, chunks - 1)
    if len(np.unique(chunk)) < chunks:
        return None
    means = [float(series.values[chunk == i].mean()) for i in range(chunks)]
    if not means[0]:
        return None
    total = 0.0
    for i in range(2, chunks + 1):
        weight = float(chunks - i + 1)
        weight = weight if weights == "linear" else math.log(weight)
        total += weight * abs(means[i - 1] - means[0]) / means[0]
    return total


def curve(
    series: Series, metric: Change, protocol: Protocol = DEFAULT_PROTOCOL
) -> list[float | None]:
    """The change of each second against the start; the first value is that of second 0 to 1."""
    start, _ = stretches(series, protocol)
    seconds = _by_second(series)
    if not len(start):
        return [None] * len(seconds)
    return [metric.change(start, values) if len(values) else None for values in seconds]


def mean_curve(series: Series) -> list[float | None]:
    """The mean of each second."""
    return [float(values.mean()) if len(values) else None for values in _by_second(series)]


def _by_second(series: Series) -> list[Values]:
    count = max(1, math.ceil(series.duration - 1e-6))
    edges = np.searchsorted(series.times, np.arange(count + 1) - 1e-9)
    edges[-1] = len(series.times)
    return [series.values[a:b] for a, b in itertools.pairwise(edges)]


def onset(points: Sequence[float | None], beyond: Callable[[float], bool]) -> float | None:
    """The first second of a curve that is beyond a threshold and does not come back at once.

    A single second does not count, unless it is the last one.
    """
    outside = [point is not None and beyond(point) for point in points]
    for second, is_outside in enumerate(outside):
        if is_outside and all(outside[second : second + 2]):
            return float(second)
    return None


@dataclass(frozen=True)
class Statistics:
    """A metric over several videos, or its difference over several pairs.

    Attributes:
        n: values.
        mean: with their signs.
        mean_absolute: without them; what a signed mean hides.
        median: with signs.
        interval: 95 % bootstrap interval of the mean; None for fewer than two values.
    """

    n: int
    mean: float
    mean_absolute: float
    median: float
    interval: tuple[float, float] | None


def statistics(values: Sequence[float]) -> Statistics:
    """Signed and absolute mean, median and bootstrap interval; the same numbers every time.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("`values` must not be empty")
    data = np.asarray(values, dtype=np.float64)
    return Statistics(
        n=len(data),
        mean=float(data.mean()),
        mean_absolute=float(np.abs(data).mean()),
        median=float(np.median(data)),
        interval=interval(data) if len(data) > 1 else None,
    )


@dataclass(frozen=True)
class Paired:
    """One metric of videos and of their baselines, paired by prompt.

    Attributes:
        wins: pairs in which ours is better.
        losses: pairs in which the baseline is better.
        ours: mean.
        baseline: mean.
        difference: ours - baseline.
    """

    wins: int
    losses: int
    ours: float
    baseline: float
    difference: Statistics


def paired(
    ours: Sequence[float], baseline: Sequence[float], better: Literal["lower", "higher", "neither"]
) -> Paired:
    """Compare pairs; the interval is of the mean difference, so prompts resample as pairs.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    differences = [a - b for a, b in zip(ours, baseline, strict=True)]
    sign = {"lower": -1, "higher": 1, "neither": 0}[better]
    return Paired(
        wins=sum(sign * d > 0 for d in differences),
        losses=sum(sign * d < 0 for d in differences),
        ours=float(np.mean(ours)),
        baseline=float(np.mean(baseline)),
        difference=statistics(differences),
    )
