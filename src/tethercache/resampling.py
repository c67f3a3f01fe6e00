"""Bootstrap intervals, the same numbers every time.

Values are drawn again, with replacement, as many as there are. How far a statistic of the draws
varies says how far that of the values would vary (percentile bootstrap, Efron and Tibshirani 1993,
chapter 13). Of pairs, the differences or ratios are drawn, so that both sides of a pair stay
together: what makes one prompt or one moment harder for both cancels out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_AT_ONCE = 1000  # draws, which bounds memory


class Statistic(Protocol):
    """A number of many, such as `np.mean`, `np.nanmean` or `np.median`."""

    def __call__(self, values: Array, /, *, axis: int) -> Any:
        """Of values `[draws, n]`, along `axis`."""


def resamples(count: int, draws: int = 10_000, seed: int = 0) -> Iterator[Array]:
    """Which of `count` values are drawn: ints `[a part of the draws, count]`, part by part."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        yield random.integers(count, size=(min(_AT_ONCE, draws - start), count))


def bounds(drawn: Array, confidence: float = 0.95) -> tuple[float, float]:
    """The ends of the interval that holds the middle of `drawn`; draws that are NaN do not count.

    Args:
        drawn: a statistic of each draw, `[draws]`.
        confidence: share of the draws that lie between the ends.
    """
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def interval(
    values: Sequence[float] | Array,
    statistic: Statistic = np.mean,
    *,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of a statistic.

    Args:
        values: `[n]`; of pairs, their differences or ratios.
        statistic: that of the values which is asked for.
        draws: how often the values are drawn.
        confidence: probability mass of the interval.
        seed: of the draws.

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("`values` must not be empty")
    data = np.asarray(values, dtype=np.float64)
    found = [statistic(data[picks], axis=1) for picks in resamples(len(data), draws, seed)]
    return bounds(np.concatenate(found), confidence)
