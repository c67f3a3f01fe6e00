"""Motion: a video that freezes has no other drift, so motion always stands beside drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Cadence, Change, Series, Values, Whole


@dataclass(frozen=True)
class MotionLevel(Whole):
    """Mean optical flow (OpenCV's DIS, fast preset) between neighbouring frames."""

    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> float | None:
        """Optical flow since the frame before."""
        return frame.motion

    def summarise(self, series: Series) -> float | None:
        """The mean flow."""
        return float(series.values.mean())


@dataclass(frozen=True)
class MotionRetention(Change):
    """Optical flow at the end over the flow at the start; 1 keeps all motion, 0 freezes.

    Args:
        still: below this flow at the start, pixels a frame, there is no motion to lose.
    """

    still: float = 0.05
    is_signed: ClassVar[bool] = False
    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> float | None:
        """Optical flow since the frame before."""
        return frame.motion

    def change(self, start: Values, end: Values) -> float | None:
        """The ratio, end over start; None where the start stands still."""
        before = float(start.mean())
        return None if before < self.still else float(end.mean()) / before


@dataclass(frozen=True)
class FrozenShare(Whole):
    """Share of frames that repeat the frame before.

    Args:
        threshold: largest mean absolute difference, of 255, that counts as no change.
    """

    threshold: float = 0.3
    cadence: ClassVar[Cadence] = "every frame"
    version: ClassVar[int] = 2
    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> float | None:
        """1 where the frame repeats the one before it, else 0."""
        return None if frame.difference is None else float(frame.difference < self.threshold)

    def summarise(self, series: Series) -> float | None:
        """The share of repeated frames."""
        return float(np.mean(series.values))


@dataclass(frozen=True)
class FrozenSeconds(FrozenShare):
    """Longest time for which the picture stands still after it moved.

    A frame may differ now and then, as at the key frames of a file. A video that never moved has
    not frozen: that is for `frozen_share` to say.
    """

    def summarise(self, series: Series) -> float | None:
        """The seconds of the longest standstill behind the first second."""
        rate = len(series.values) / series.duration
        still = np.concatenate([[0.0], np.cumsum(series.values)])
        size = max(1, round(rate))
        # by second: does nearly every frame of it repeat the one before?
        frozen = (still[size:] - still[:-size]) >= 0.9 * size
        longest = run = 0
        for is_frozen in frozen[size:] if len(frozen) and not frozen[0] else ():
            run = run + 1 if is_frozen else 0
            longest = max(longest, run)
        return (longest + size - 1) / rate if longest else 0.0


@dataclass(frozen=True)
class Repetition(Whole):
    """Share of a video that repeats, picture by picture, what was there seconds before.

    At the right lag the pictures are the same, while between they were others. Things that go to
    and fro come close to where they were, but not that close.

    Args:
        shortest: seconds of the shortest lag.
        longest: seconds of the longest lag.
        alike: largest difference, as a share of the mean at shorter lags.
        moves: smallest mean difference at shorter lags, of 255.
    """

    shortest: float = 1.0
    longest: float = 60.0
    alike: float = 0.25
    moves: float = 1.5

    def measure(self, frame: Frame) -> Values:
        """A very small picture."""
        return frame.signature.ravel().astype(np.float64)

    def summarise(self, series: Series) -> float | None:
        """The share at the best lag; None for fewer than two lags."""
        # a light that blinks brings back a brightness, but no picture
        values = (series.values - series.values.mean(axis=1, keepdims=True)).astype(np.float32)
        step = float(np.median(np.diff(series.times))) if len(values) > 1 else 0.0
        first = round(self.shortest / step) if step else 0
        if not first or len(values) < 2 * first:
            return None
        best, apart = 0.0, np.zeros(len(values), np.float32)
        for lag in range(1, min(len(values) - first, round(self.longest / step)) + 1):
            now = np.abs(values[lag:] - values[:-lag]).mean(axis=1)
            between = apart[: len(now)] / max(1, lag - 1)  # how far the picture went meanwhile
            if lag >= first:
                same = (now < self.alike * between) & (between > self.moves)
                best = max(best, float(same.sum()) / len(values))
            apart = apart[: len(now)] + now
        return best
