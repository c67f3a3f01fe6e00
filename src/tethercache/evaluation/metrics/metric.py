"""What a metric is: it measures frames as they pass, and makes one number of the measurements.

There are two kinds. A `Change` compares the start of a video with its end, so that every protocol
and every second of the curve can use it; a `Whole` looks at all measurements at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tethercache.evaluation.metrics.frame import Frame

Values = npt.NDArray[np.float64]
Cadence = Literal["every frame", "sampled", "half second"]


@dataclass(frozen=True)
class Series:
    """All measurements of one metric in one video.

    Attributes:
        indices: frame numbers `[n]`.
        times: seconds `[n]`.
        values: `[n]`, or `[n, d]` where a measurement is a vector.
        duration: seconds of the video.
    """

    indices: npt.NDArray[np.int64]
    times: Values
    values: Values
    duration: float

    def between(self, begin: float, end: float) -> Values:
        """The measurements from `begin` to before `end`, in seconds."""
        first, last = np.searchsorted(self.times, (begin - 1e-6, end - 1e-6))
        return self.values[first:last]

    def part(self, begin: float, end: float) -> Series:
        """The measurements from `begin` to before `end`, with times from `begin` on."""
        first, last = np.searchsorted(self.times, (begin - 1e-6, end - 1e-6))
        inside = slice(first, last)
        return Series(
            self.indices[inside], self.times[inside] - begin, self.values[inside], end - begin
        )


class Metric(ABC):
    """One number that a video gets. Subclasses are frozen dataclasses, so that specs set them.

    Attributes:
        cadence: which frames are measured.
        version: raised whenever results change, so that stored ones are not taken for new ones.
        needs_rate: it compares frames with the ones before, which needs one frame rate.
    """

    cadence: ClassVar[Cadence] = "sampled"
    version: ClassVar[int] = 1
    needs_rate: ClassVar[bool] = False

    @abstractmethod
    def measure(self, frame: Frame) -> float | Values | None:
        """Measure a frame, perhaps against the one before it; None where that cannot be done."""


class Change(Metric):
    """A metric of how far the end of a video is from its start.

    Attributes:
        is_signed: a change has a sign; the video's number is then its size, and smaller is better.
    """

    is_signed: ClassVar[bool] = True

    def change(self, start: Values, end: Values) -> float | None:
        """Compare measurements `[n]` or `[n, d]`; by default the mean's difference, end - start."""
        return float(end.mean() - start.mean())


class Whole(Metric):
    """A metric of all frames of a video."""

    @abstractmethod
    def summarise(self, series: Series) -> float | None:
        """One number of all measurements; None if they are too few."""

    def events(self, series: Series) -> list[float]:
        """Times in seconds that deserve a mark; most metrics have none."""
        return []
