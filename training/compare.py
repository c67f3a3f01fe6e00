"""Two training runs side by side: does training again give as good a model?

    python -m training.compare --config training/configs/compare.yaml

Compares what the commands of `README.md` leave behind with the files of the shipped model in
`curves/`: the loss curves of every stage, the scores of `sample` and the report of `longrun`.
Losses are compared over a quarter of a stage, the one that ends at the last step that both runs
have logged, beside the scatter of the log rows there; scores and long runs prompt by prompt, with
95 % bootstrap intervals over the prompts that both runs have. Those know nothing of how far two
trainings lie apart by chance, for which two runs are too few. What a run does not have (yet) is
left out.

Axes: R log rows of a stage.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.common import load_config
from training.report import differences, differences_table
from training.summing import interval, markdown, spelled

Array = npt.NDArray[Any]
Curve = dict[str, Array]  # a stage's columns, each `[R]`


def read_curve(path: Path) -> Curve:
    """The columns of a stage's CSV, a row each `log_every` steps."""
    with path.open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {key: np.array([float(row[key]) for row in rows]) for key in reader.fieldnames or ()}


def stages(first: Path, second: Path) -> Iterator[tuple[str, Curve, Curve]]:
    """Name and both curves, by name, of every stage that both runs have.

    Args:
        first: folder of `FOLDER-NUMBER-STAGE.csv`.
        second: folder of `FOLDER/NUMBER-STAGE.csv`.
    """
    for path in sorted(first.glob("*.csv")):
        match = re.fullmatch(r"(.+)-(\d+-\w+)", path.stem)
        if match and (other := second / match[1] / f"{match[2]}.csv").is_file():
            one, two = read_curve(path), read_curve(other)
            if all(len(run.get("step", ())) for run in (one, two)):  # one may have just begun
                yield path.stem, one, two


def columns(one: Curve, two: Curve) -> list[str]:
    """What both curves show over their steps."""
    return [key for key in one if key in two and key not in ("step", "seconds")]


def settled(curve: Curve, column: str, steps: float) -> str:
    """Mean ± standard deviation of the rows in the quarter of a stage that ends at `steps`."""
    values = curve[column][(curve["step"] > 0.75 * steps) & (curve["step"] <= steps)]
    if len(values) < 2:
        return "".join(f"{value:.4g}" for value in values)
    return f"{values.mean():.4g} ± {values.std(ddof=1):.2g}"


def curves_table(first: Path, second: Path) -> str:
    """Every stage's columns in both runs as a Markdown table, up to the steps that both have."""
    rows = []
    for name, one, two in stages(first, second):
        steps = min(one["step"][-1], two["step"][-1])
        for column in columns(one, two):
            cells = [settled(run, column, steps) for run in (one, two)]
            rows.append([name, f"{steps:.0f}", column, *cells])
    heads = ["stage, mean ± scatter of log rows", "until step", "", "first run", "second run"]
    return markdown(heads, rows)


def scores_table(first: dict[str, Any], second: dict[str, Any]) -> str:
    """`sample`'s scores of both runs, over the prompts that both read, as a Markdown table."""
    one, two = ({result["prompt"]: result for result in run["results"]} for run in (first, second))
    shared = [prompt for prompt in one if prompt in two]
    rows = []
    for key in ("adherence", "everything") if shared else ():
        values = [np.array([float(run[prompt][key]) for prompt in shared]) for run in (one, two)]
        gap = spelled(interval(values[1] - values[0]), 3, "+")
        rows.append([key, *(f"{value.mean():.3f}" for value in values), gap])
    heads = [f"{len(shared)} prompts", "first run", "second run", "second minus first"]
    return markdown(heads, rows)


def longruns_table(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Second minus first of two reports of `longrun`, policy by policy, as a Markdown table.

    Raises:
        ValueError: The videos of the two reports are not of the same kind.
    """
    same = [key for key in first["made"] if key not in ("weights", "batch")]
    others = [key for key in same if first["made"][key] != second["made"].get(key)]
    if others or first["window_seconds"] != second["window_seconds"]:
        raise ValueError(f"long runs with other {', '.join(others or ['window_seconds'])}")
    found, shared = {}, set()
    for policy, curves in second["policies"].items():
        if policy in first["policies"]:
            found[policy] = differences(curves, first["policies"][policy])
            shared |= set(curves["prompts"]) & set(first["policies"][policy]["prompts"])
    return differences_table(found, f"second minus first, {len(shared)} prompts")


def plot(first: Path, second: Path, path: Path) -> None:
    """Draw the columns of every stage in both runs, one above the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        (f"{name}: {column}", one["step"], one[column], two["step"], two[column])
        for name, one, two in stages(first, second)
        for column in columns(one, two)
    ]
    rows = -(-len(panels) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(14, 2.6 * rows), layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, *lines) in zip(axes.flat, panels, strict=False):
        axis.plot(*lines[:2], label="first run", linewidth=1)
        axis.plot(*lines[2:], label="second run", linewidth=1)
        low, high = np.quantile(np.concatenate((lines[1], lines[3])), (0, 0.97))
        axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        axis.set_title(title, fontsize="medium")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize="small")
    figure.savefig(path, dpi=70)
    plt.close(figure)


def tables(first: Path, second: Path) -> Iterator[str]:
    """The tables of what both runs have: curves, scores, long runs.

    Raises:
        SystemExit: the long runs cannot be compared.
    """
    yield curves_table(first, second)
    for kept, name, compare in (
        ("scores.json", "samples/scores.json", scores_table),
        ("longrun.json", "longrun/report.json", longruns_table),
    ):
        paths = (first / kept, second / name)
        if all(path.is_file() for path in paths):
            one, two = (json.loads(path.read_text()) for path in paths)
            try:
                yield compare(one, two)
            except ValueError as error:
                raise SystemExit(f"{paths[0]} and {paths[1]}: {error}") from None


def main() -> None:
    """Print and keep the tables (`compare.md`), draw the curves (`curves.png`)."""
    config: dict[str, Any] = load_config(__doc__)
    first, second, out = (Path(config[key]) for key in ("first", "second", "out"))
    out.mkdir(parents=True, exist_ok=True)
    if not any(stages(first, second)):
        raise SystemExit(f"no stage of {first} has a curve in {second}")
    plot(first, second, out / "curves.png")
    with (out / "compare.md").open("w") as file:
        for number, table in enumerate(tables(first, second)):
            text = "\n" * (number > 0) + table
            print(text)
            print(text, file=file)


if __name__ == "__main__":
    main()
