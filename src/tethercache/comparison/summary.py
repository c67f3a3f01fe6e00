"""What a comparison shows: means, and differences prompt by prompt, each with its interval.

The seeds of a prompt are averaged, and prompts are drawn again (bootstrap), because videos of one
prompt are alike. A difference is taken prompt by prompt, where both policies have a value. Of k
differences in a table, each has an interval of 1 - 0.05 / k (Bonferroni), so that all of them hold
at once with 95 %: one that leaves out zero is not one of many that happened to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tethercache import resampling
from tethercache.comparison import readings
from tethercache.comparison.plan import Plan
from tethercache.comparison.units import Unit, units
from tethercache.evaluation.result import rounded
from tethercache.evaluation.tables import Cell, Table
from tethercache.policies import POLICIES

CONFIDENCE = 0.95
FEWEST = 3  # prompts for an interval
_DESCRIBED = frozenset(readings.COST)  # no prompt by prompt: machines and sizes, not videos


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts.

    Attributes:
        mean: of the prompts' means.
        low, high: its interval; None for fewer than `FEWEST` prompts.
        prompts: how many have a value.
    """

    mean: float
    low: float | None
    high: float | None
    prompts: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True)
class Summary:
    """The numbers of a comparison.

    Attributes:
        policies: specs as they were given; the first is the one that others are compared with.
        complete: whether every video is made.
        videos: how many are, by policy.
        prompts, seeds: how many were asked for.
        measures: what was measured, in order.
        means: by policy and measure.
        differences: to the first policy, by policy and measure.
        confidence: of each interval of the differences, so that all hold at once.
        by_prompt: by policy and measure, the mean of each prompt's seeds by its number.
    """

    policies: Sequence[str]
    complete: bool
    videos: Mapping[str, int]
    prompts: int
    seeds: int
    measures: Sequence[str]
    means: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    confidence: float
    by_prompt: Mapping[str, Mapping[str, Mapping[int, float]]]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        specs = {p: POLICIES.spec(POLICIES.parse(p), full=True) for p in self.policies}
        found: dict[str, Any] = rounded({"specs": specs, **asdict(self)})
        return found


def summarise(plan: Plan, folder: Path) -> Summary:
    """Sum up the videos that are there.

    Raises:
        ValueError: there are none.
    """
    all_of = units(plan, folder)
    read = [(unit, found) for unit in all_of if (found := unit.reading()) is not None]
    if not read:
        raise ValueError(f"{folder} has no complete video of this comparison")
    by_prompt = {p: _by_prompt([r for r in read if r[0].policy == p]) for p in plan.policies}
    names = [m for m in readings.measures() if any(by_prompt[p].get(m) for p in plan.policies)]
    base, *others = plan.policies
    judged = [name for name in names if name not in _DESCRIBED]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(others) * len(judged))
    return Summary(
        policies=plan.policies,
        complete=len(read) == len(all_of),
        videos={p: sum(unit.policy == p for unit, _ in read) for p in plan.policies},
        prompts=len(plan.subjects),
        seeds=plan.seeds,
        measures=names,
        means={
            p: {m: estimate(list(of.values())) for m in names if (of := by_prompt[p].get(m))}
            for p in plan.policies
        },
        differences={
            p: {
                m: estimate(gaps, confidence)
                for m in judged
                if (gaps := _gaps(by_prompt[p].get(m, {}), by_prompt[base].get(m, {})))
            }
            for p in others
        },
        confidence=confidence,
        by_prompt=by_prompt,
    )


def _by_prompt(read: Sequence[tuple[Unit, Mapping[str, Any]]]) -> dict[str, dict[int, float]]:
    """The mean of each prompt's seeds, by measure and prompt."""
    values: dict[str, dict[int, list[float]]] = {}
    for unit, found in read:
        for name, value in found["values"].items():
            if value is not None:
                values.setdefault(name, {}).setdefault(unit.prompt, []).append(value)
    return {
        name: {prompt: float(np.mean(of)) for prompt, of in prompts.items()}
        for name, prompts in values.items()
    }


def _gaps(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    return [one[prompt] - other[prompt] for prompt in sorted(set(one) & set(other))]


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of the prompts' values `[n]` with its bootstrap interval."""
    low = high = None
    if len(values) >= FEWEST:
        low, high = resampling.interval(values, np.mean, confidence=confidence)
    return Estimate(float(np.mean(values)), low, high, len(values))


def table(summary: Summary) -> Table:
    """A row a measure and policy: the mean, and the difference to the first policy."""
    known, base = readings.measures(), summary.policies[0]
    state = "" if summary.complete else "; not complete"
    title = f"prompts: {summary.prompts}, seeds: {summary.seeds}{state}"
    heads = ["", "policy", "mean", "95 %", f"minus {base}", "together 95 %"]
    rows = []
    for measure in summary.measures:
        for policy in summary.policies:
            if (found := summary.means[policy].get(measure)) is None:
                continue
            gap = summary.differences.get(policy, {}).get(measure)
            better = known[measure].better
            rows.append(
                [
                    Cell(known[measure].title if policy == base else "", hint=known[measure].about),
                    Cell(policy),
                    *_spelled(found),
                    *(_spelled(gap, "+", better) if gap else (Cell(""), Cell(""))),
                ]
            )
    return Table(title, heads, rows, words=2)


def _spelled(found: Estimate, sign: str = "", better: str = "neither") -> tuple[Cell, Cell]:
    """An estimate and its interval; of a clear difference, whether it is good or bad."""
    size = max(abs(x) for x in (found.mean, found.low, found.high) if x is not None)
    digits = 3 if size <= 1 else 2 if size < 10 else 1 if size < 100 else 0
    tone = ""
    if better != "neither" and found.is_clear:
        tone = "good" if (found.mean > 0) == (better == "higher") else "bad"
    ends = ""
    if found.low is not None and found.high is not None:
        ends = f"{found.low:{sign}.{digits}f} to {found.high:{sign}.{digits}f}"
    return Cell(f"{found.mean:{sign}.{digits}f}", tone), Cell(ends)
