"""Flicker: of neighbouring frames, and at the joins of the chunks that a model generates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Cadence, Series, Whole

_FLOOR = 0.1  # of 255, added to both sides: in a still picture noise must not count as a join


@dataclass(frozen=True)
class TemporalFlickering(Whole):
    """VBench's score: (255 - mean absolute difference of neighbouring frames) / 255.

    It prefers videos that freeze; read it together with the motion.
    """

    cadence: ClassVar[Cadence] = "every frame"

    def measure(self, frame: Frame) -> float | None:
        """Mean absolute difference to the frame before."""
        return frame.difference

    def summarise(self, series: Series) -> float | None:
        """The score, 0 to 1."""
        return (255 - float(series.values.mean())) / 255


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
