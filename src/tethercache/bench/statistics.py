"""Medians, spread, and paired ratios with an interval.

A machine is never equally fast for long. Contestants are therefore timed in rounds, one chunk each,
and compared within a round: what slows the whole machine down slows both down and leaves their
ratio alone. The median of the rounds' ratios is the result, with its bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tethercache.resampling import interval


@dataclass(frozen=True)
class Ratio:
    """A ratio of two contestants.

    Attributes:
        median: median of the rounds' ratios.
        low: lower end of the 95 % interval of that median.
        high: its upper end.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def spread(values: Sequence[float]) -> float:
    """Distance between the quartiles over the median."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


def paired_ratio(
    ours: Sequence[float],
    reference: Sequence[float],
    *,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratio:
    """Compare two contestants round by round.

    Args:
        ours: one time a round.
        reference: times of the other, from the same rounds in the same order.
        draws: bootstrap resamples of the rounds.
        confidence: probability mass of the interval.
        seed: of the resampling.

    Raises:
        ValueError: if the two do not come from equally many rounds, or from none.
    """
    if len(ours) != len(reference) or len(ours) == 0:
        raise ValueError(f"{len(ours)} and {len(reference)} times cannot be paired")
    ratios = np.asarray(ours, float) / np.asarray(reference, float)
    low, high = interval(ratios, np.median, draws=draws, confidence=confidence, seed=seed)
    return Ratio(float(np.median(ratios)), low, high)
