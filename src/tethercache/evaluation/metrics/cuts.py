"""Cuts and jumps: places where the picture changes at once, which start and end then straddle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.layout import compare
from tethercache.evaluation.metrics.metric import Cadence, Series, Values, Whole

_SIDE = 4  # neighbours on each side that say how much change is normal here


@dataclass(frozen=True)
class Cuts(Whole):
    """Number of shot changes: frames in which another layout appears, and other colours.

    Args:
        content: smallest mean HSV difference, of 255.
        replaced: smallest share of the picture that shows something else.
        ratio: of both over the median of the neighbouring frames.
    """

    content: float = 6.0
    replaced: float = 0.6
    ratio: float = 2.0
    cadence: ClassVar[Cadence] = "every frame"
    version: ClassVar[int] = 2

    def measure(self, frame: Frame) -> Values | None:
        """Mean HSV difference to the frame before; shares that show something else and the same."""
        if frame.previous is None:
            return None
        before, now = frame.previous.hsv, frame.hsv
        hue = cv2.absdiff(before[..., 0], now[..., 0])
        hue = np.minimum(hue, 180 - hue)  # hue is a circle
        rest = cv2.norm(before[..., 1:], now[..., 1:], cv2.NORM_L1)
        content = float((hue.sum(dtype=np.int64) + rest) / now.size)
        layouts = compare(frame.previous.layout, frame.layout)
        return np.array([content, layouts.replaced, layouts.kept])

    def summarise(self, series: Series) -> float:
        """The number of cuts."""
        return float(len(self.events(series)))

    def events(self, series: Series) -> list[float]:
        """The times of the cuts."""
        least = np.array([self.content, self.replaced])
        values = series.values[:, :2]
        found = (values >= np.maximum(least, self.ratio * usual(values))).all(axis=1)
        return [float(time) for time in series.times[found]]


@dataclass(frozen=True)
class Jumps(Whole):
    """Number of sudden changes that stand out from the whole video.

    Args:
        ratio: of a difference to the median of all.
        smallest: mean absolute difference, of 255, that a jump has at least.
    """

    ratio: float = 8.0
    smallest: float = 15.0
    cadence: ClassVar[Cadence] = "every frame"
    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> float | None:
        """Mean absolute difference to the frame before."""
        return frame.difference

    def summarise(self, series: Series) -> float:
        """The number of jumps."""
        return float(len(self.events(series)))

    def events(self, series: Series) -> list[float]:
        """The times of the jumps."""
        limit = max(self.ratio * float(np.median(series.values)), self.smallest)
        return [float(time) for time in series.times[series.values > limit]]


def usual(values: Values) -> Values:
    """The median of each measurement's neighbours, without itself."""
    usual = np.zeros_like(values)
    for i in range(len(values)):
        near = np.concatenate([values[max(0, i - _SIDE) : i], values[i + 1 : i + 1 + _SIDE]])
        usual[i] = np.median(near, axis=0) if len(near) else 0.0
    return usual
