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

    def measure(self, frame: Frame) -> float | None:
        """1 where the frame repeats the one before it, else 0."""
        return None if frame.difference is None else float(frame.difference < self.threshold)

    def summarise(self, series: Series) -> float | None:
        """The share of repeated frames."""
        return float(np.mean(series.values))
