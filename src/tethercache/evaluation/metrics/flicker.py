"""Flicker: of neighbouring frames, and at the joins of the chunks that a model generates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Cadence, Series, Values, Whole

_PERIODS = (2, 3, 4)  # frames
_SUSTAINED = 5  # windows of a second
_FLOOR = 0.1  # of 255, added to both sides: in a still picture noise must not count as a join


@dataclass(frozen=True)
class TemporalFlickering(Whole):
    """VBench's score: (255 - mean absolute difference of neighbouring frames) / 255.

    It prefers videos that freeze; read it together with the motion.
    """

    cadence: ClassVar[Cadence] = "every frame"
    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> float | None:
        """Mean absolute difference to the frame before."""
        return frame.difference

    def summarise(self, series: Series) -> float | None:
        """The score, 0 to 1."""
        return (255 - float(series.values.mean())) / 255


@dataclass(frozen=True)
class Flicker(Whole):
    """Amplitude with which the whole picture gets brighter and darker every 2 to 4 frames.

    What alternates keeps its rhythm, and that is what is measured, second by second: fire and
    fireworks change as fast, but without one. The number is the median of the worst 5 s.
    """

    cadence: ClassVar[Cadence] = "every frame"
    needs_rate: ClassVar[bool] = True

    def measure(self, frame: Frame) -> Values:
        """Mean and spread of luma in working size; the spread is what fades are found by."""
        mean, spread = cv2.meanStdDev(frame.work_luma)
        return np.array([mean.item(), spread.item()])

    def summarise(self, series: Series) -> float | None:
        """The amplitude, of 255; None for less than a second."""
        luma = series.values[:, 0]
        size = max(4 * max(_PERIODS), round(len(luma) / series.duration))
        found = [
            _amplitude(luma[begin : begin + size]) for begin in range(0, len(luma) - size + 1, size)
        ]
        if not found:
            return None
        runs = max(1, len(found) - _SUSTAINED + 1)
        return max(float(np.median(found[i : i + _SUSTAINED])) for i in range(runs))


def _amplitude(luma: Values) -> float:
    """The largest amplitude of an alternation in one window."""
    place = np.arange(len(luma))
    # the slow part would leak into the rhythm
    rest = luma - np.polyval(np.polyfit(place, luma, 2), place)
    return max(
        float(abs(np.mean(rest * np.exp(2j * np.pi * place / period)))) * (1 if period == 2 else 2)
        for period in _PERIODS
    )


@dataclass(frozen=True)
class ChunkBoundaryFlicker(Whole):
    """Median ratio of the differences at the joins of chunks to those beside them; 1: no joins.

    Args:
        chunk: pixel frames of a chunk; 3 latent frames make 12.
        first: pixel frames of the first chunk; 3 latent frames make 9.
        joins: fewest joins that give a number.
    """

    chunk: int = 12
    first: int = 9
    joins: int = 3
    cadence: ClassVar[Cadence] = "every frame"
    needs_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.chunk < 4 or self.first < 1:
            raise ValueError(
                f"`chunk` ({self.chunk}) must be at least 4 and `first` ({self.first}) at least 1"
            )

    def measure(self, frame: Frame) -> float | None:
        """Mean absolute difference to the frame before."""
        return frame.difference

    def summarise(self, series: Series) -> float | None:
        """The median ratio over the joins; None if they are too few."""
        ratios = []
        at = {
            int(index): float(value)
            for index, value in zip(series.indices, series.values, strict=True)
        }
        for join in range(self.first, int(series.indices[-1]), self.chunk):
            beside = [at[i] for i in (join - 2, join - 1, join + 1, join + 2) if i in at]
            if join in at and beside:
                ratios.append((at[join] + _FLOOR) / (float(np.mean(beside)) + _FLOOR))
        return float(np.median(ratios)) if len(ratios) >= self.joins else None
