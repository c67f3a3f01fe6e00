"""A comparison as one HTML page: the table, curves of every policy, videos side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tethercache.comparison import readings
from tethercache.comparison.plan import Plan
from tethercache.comparison.summary import Summary, table
from tethercache.comparison.units import units
from tethercache.evaluation import chart
from tethercache.evaluation.page import environment
from tethercache.text import printable

COLOURS = 8
"""Lines that the page tells apart by colour; those behind them are dashed, too."""

Curve = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """The mean of a policy, second by second.

    Attributes:
        policy: its spec.
        kind: class of its colour.
        path: SVG.
        last: the value at the end, in words.
    """

    policy: str
    kind: str
    path: str
    last: str


@dataclass(frozen=True)
class Plot:
    """One measure over time, a line a policy; places are those of `evaluation.chart`."""

    title: str
    label: str
    rows: Sequence[chart.Mark]
    columns: Sequence[chart.Mark]
    lines: Sequence[Line]


@dataclass(frozen=True)
class Row:
    """A prompt, and its video side by side, relative to the page."""

    prompt: str
    video: str


def page(plan: Plan, folder: Path, summary: Summary, videos: Mapping[int, Path]) -> str:
    """The HTML of a comparison.

    Args:
        plan: what is compared.
        folder: where it is; the page is for a file in there.
        summary: its numbers.
        videos: side by side, by the number of the prompt.
    """
    rows = [
        Row(plan.subjects[prompt].prompt, video.relative_to(folder).as_posix())
        for prompt, video in sorted(videos.items())
    ]
    html = (
        environment()
        .get_template("comparison.html")
        .render(
            numbers=table(summary),
            summary=summary,
            kinds=dict(
                zip(summary.policies, map(_kind, range(len(summary.policies))), strict=True)
            ),
            plots=plots(plan, folder),
            rows=rows,
            abouts={m.title: m.about for m in readings.measures().values()},
            chart=chart,
            confidence=f"{100 * summary.confidence:.2f}",
        )
    )
    return printable(html)


def plots(plan: Plan, folder: Path) -> list[Plot]:
    """A plot for each measure that is known second by second."""
    curves: dict[str, dict[str, list[Curve]]] = {}
    for unit in units(plan, folder):
        found = unit.reading()
        for name, curve in (found or {}).get("curves", {}).items():
            curves.setdefault(name, {}).setdefault(unit.policy, []).append(curve)
    means = {
        name: {policy: mean_curve(each) for policy, each in found.items()}
        for name, found in curves.items()
    }
    known = readings.measures()
    return [
        _plot(known[name].title, plan.policies, means[name])
        for name in known
        if name in means and any(v is not None for c in means[name].values() for v in c)
    ]


def mean_curve(curves: Sequence[Curve]) -> list[float | None]:
    """The mean of each second over those that have a value there; None where none has."""
    length = max(map(len, curves))
    values = np.full((len(curves), length), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = [np.nan if value is None else value for value in curve]
    there = ~np.isnan(values)
    counts = there.sum(0)
    sums = np.where(there, values, 0.0).sum(0)
    return [
        float(total / count) if count else None for total, count in zip(sums, counts, strict=True)
    ]


def _plot(title: str, policies: Sequence[str], curves: Mapping[str, Curve]) -> Plot:
    values = [value for curve in curves.values() for value in curve if value is not None]
    low, high = min(0.0, *values), max(0.0, *values)
    seconds = max(map(len, curves.values()))

    def x(second: float) -> float:
        return round(chart.LEFT + (chart.RIGHT - chart.LEFT) * second / seconds, 1)

    def y(value: float) -> float:
        share = (value - low) / max(high - low, 1e-9)
        return round(chart.FLOOR - (chart.FLOOR - chart.TOP) * share, 1)

    lines = []
    for number, policy in enumerate(policies):
        curve, path, pen = curves.get(policy, ()), [], "M"
        for second, value in enumerate(curve):
            if value is None:
                pen = "M"
            else:
                path.append(f"{pen}{x(second + 0.5):g} {y(value):g}")
                pen = "L"
        known = [value for value in curve if value is not None]
        last = f"{known[-1]:.3g}" if known else ""
        lines.append(Line(policy, _kind(number), "".join(path), last))
    ends = "; ".join(f"{line.policy} {line.last}" for line in lines if line.last)
    return Plot(
        title=title,
        label=f"{title}, mean of each second; at the end: {ends}",
        rows=[chart.Mark(chart.LEFT, y(t), f"{t:g}") for t in chart.ticks(low, high)],
        columns=[chart.Mark(x(s), chart.FLOOR, f"{s:g}") for s in chart.ticks(0, seconds)],
        lines=lines,
    )


def _kind(number: int) -> str:
    return f"c{number % COLOURS}" + " dashed" * (number >= COLOURS)
