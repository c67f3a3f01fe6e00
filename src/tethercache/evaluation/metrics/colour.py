"""Colour: does the picture become another colour, more saturated, darker?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Change, Values


@dataclass(frozen=True)
class ColourDifference(Change):
    """Distance of the mean Lab colours of start and end (CIE 1976)."""

    is_signed: ClassVar[bool] = False

    def measure(self, frame: Frame) -> Values:
        """The mean Lab colour."""
        return np.asarray(frame.lab.mean(axis=(0, 1)), dtype=np.float64)

    def change(self, start: Values, end: Values) -> float:
        """Distance of the mean colours."""
        return float(np.linalg.norm(end.mean(axis=0) - start.mean(axis=0)))


@dataclass(frozen=True)
class Chroma(Change):
    """Change of the 95th percentile of Lab chroma: how vivid the vivid parts are."""

    def measure(self, frame: Frame) -> float:
        """The 95th percentile of chroma."""
        chroma = np.hypot(frame.lab[..., 1], frame.lab[..., 2])
        return float(np.percentile(chroma, 95))


@dataclass(frozen=True)
class Colourfulness(Change):
    """Change of Hasler and Suesstrunk's colourfulness, from opponent colours."""

    def measure(self, frame: Frame) -> float:
        """Spread and offset of the opponent colours."""
        red, green, blue = (frame.work[..., i].astype(np.float32) for i in range(3))
        red_green, yellow_blue = red - green, (red + green) / 2 - blue
        spread = np.hypot(red_green.std(), yellow_blue.std())
        return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


@dataclass(frozen=True)
class Luma(Change):
    """Change of the mean luma."""

    def measure(self, frame: Frame) -> float:
        """The mean luma."""
        return float(frame.luma.mean())
