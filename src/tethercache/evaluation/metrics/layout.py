"""Layout: where things are in the picture, whatever their brightness and colour.

A picture that becomes darker or more vivid keeps its layout; another scene has another. So layout
tells a cut from a flash, and tells colours that drift from colours that change because the camera
or the things in front of it moved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from tethercache.evaluation.metrics.frame import LAYOUT_SIZE, Frame
from tethercache.evaluation.metrics.metric import Cadence, Series, Values, Whole

_BLUR = 2.0  # layout pixels over which two layouts are compared at a place
_EMPTY = 0.02  # mean square of a place without texture
_LEAST_TEXTURE = 0.2  # share of the picture; below this the comparison says little
_ALIKE, _SAME = 0.3, 0.7  # correlation of places that show something else, and the same


def likeness(one: Values, two: Values) -> float:
    """Correlation of two layouts, -1 to 1; 0 where one of them is empty."""
    size = math.sqrt(float((one * one).sum()) * float((two * two).sum()))
    return float((one * two).sum()) / size if size > 1e-9 else 0.0


@dataclass(frozen=True)
class Comparison:
    """Two layouts, place by place.

    Attributes:
        replaced: share of the textured parts, 0 to 1, that show something else.
        kept: share of them that show the same.
    """

    replaced: float
    kept: float


def compare(one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> Comparison:
    """Say how much of a picture is still in another."""
    first, second = (np.asarray(x, np.float32).reshape(LAYOUT_SIZE[::-1]) for x in (one, two))
    square_one, square_two = _around(first * first), _around(second * second)
    correlation = _around(first * second) / np.sqrt(square_one * square_two + 1e-4)
    textured = np.maximum(square_one, square_two) > _EMPTY
    size = max(float(textured.mean()), _LEAST_TEXTURE)
    other, same = textured & (correlation < _ALIKE), textured & (correlation > _SAME)
    return Comparison(float(other.mean()) / size, float(same.mean()) / size)


def _around(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), _BLUR), dtype=np.float32)


@dataclass(frozen=True)
class LayoutPersistence(Whole):
    """Median correlation of the layouts of two moments: 1 in a still scene, 0 in a fast one.

    Args:
        lag: seconds between the moments.
    """

    lag: float = 2.0
    cadence: ClassVar[Cadence] = "half second"

    def measure(self, frame: Frame) -> Values:
        """The layout."""
        return frame.layout.ravel().astype(np.float64)

    def likenesses(self, series: Series) -> list[float]:
        """Of each moment with the one a lag later."""
        steps = round(self.lag / 0.5)
        pairs = zip(series.values, series.values[steps:], strict=False)
        return [likeness(one, two) for one, two in pairs]

    def summarise(self, series: Series) -> float | None:
        """The median over the video; None if it is shorter than the lag."""
        found = self.likenesses(series)
        return float(np.median(found)) if found else None
