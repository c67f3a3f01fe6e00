"""How reports sum up values of prompts: rounded lists for JSON, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tethercache import resampling


def interval(values: npt.NDArray[Any]) -> list[float]:
    """Mean and its 95 % bootstrap interval, of `[n]`; NaNs are left out."""
    ends = resampling.interval(values, np.nanmean, draws=2000)
    return [round(float(x), 4) for x in (np.nanmean(values), *ends)]


def difference(one: Mapping[Any, float], other: Mapping[Any, float]) -> list[float]:
    """How far values by prompt lie above others, prompt by prompt.

    Returns:
        The mean difference, the ends of its 95 % interval over the prompts that both have, and the
        numbers of prompts in which `one` is higher and lower. Empty if they share no prompt.
    """
    shared = sorted(set(one) & set(other))
    gaps = np.array([one[prompt] - other[prompt] for prompt in shared])
    return [*interval(gaps), int((gaps > 0).sum()), int((gaps < 0).sum())] if shared else []


def spelled(found: Sequence[float], digits: int, sign: str = "") -> str:
    """An `interval` or a `difference` in a line: `+0.05 [-0.01, +0.12] 4:3`."""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in found[:3])
    counts = f" {found[3]}:{found[4]}" if len(found) > 3 else ""
    return f"{value} [{low}, {high}]{counts}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    head, *lines = (
        "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
        for cells in (heads, *rows)
    )
    return "\n".join([head, "|---" * len(heads) + "|", *lines])
