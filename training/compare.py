"""Does training again give the same model? Two runs side by side.

    python -m training.compare --config training/configs/compare.yaml

Compares what the commands of `README.md` leave behind with the files of the shipped model in
`curves/`: the loss curves of every stage, the scores of `sample` and the report of `longrun`.
Losses are compared over the last quarter of a stage, beside the scatter of its log rows; scores and
long runs prompt by prompt, with 95 % bootstrap intervals over the prompts that both runs have.
What a run does not have (yet) is left out.
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
from training.longrun import differences, differences_table
from training.sample import interval

Array = npt.NDArray[Any]
Curve = dict[str, Array]


def read_curve(path: Path) -> Curve:
    """The columns of a stage's CSV, a row each `log_every` steps."""
    with path.open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {key: np.array([float(row[key]) for row in rows]) for key in reader.fieldnames or ()}


def stages(first: Path, second: Path) -> Iterator[tuple[str, Curve, Curve]]:
    """Name and both curves of every stage that both runs have, in the order in which they began.

    Args:
        first: folder of `FOLDER-NUMBER-STAGE.csv`.
        second: folder of `FOLDER/NUMBER-STAGE.csv`.
    """
    found = []
    for path in first.glob("*.csv"):
        match = re.fullmatch(r"(.+)-(\d+-\w+)", path.stem)
        other = second.joinpath(*match.groups()).with_suffix(".csv") if match else second
        if other.is_file():
            found.append((other.stat().st_mtime, path.stem, read_curve(path), read_curve(other)))
    for _, name, one, two in sorted(found, key=lambda entry: entry[:2]):
        if all(len(run.get("step", ())) for run in (one, two)):  # one may have just begun
            yield name, one, two


def settled(curve: Curve, column: str, steps: float) -> tuple[float, float]:
    """Mean and standard deviation of the rows in the quarter of a stage that ends at `steps`."""
    rows = (curve["step"] > 0.75 * steps) & (curve["step"] <= steps)
    return float(curve[column][rows].mean()), float(curve[column][rows].std())


def curves_table(first: Path, second: Path) -> str:
    """Every stage's columns in both runs as a Markdown table, up to the steps that both have."""
    lines = ["| stage | steps | | first run | second run |", "|---|---|---|---|---|"]
    for name, one, two in stages(first, second):
        steps = min(one["step"][-1], two["step"][-1])
        for column in [key for key in one if key not in ("step", "seconds")]:
            cells = ["{:.4g} ± {:.2g}".format(*settled(run, column, steps)) for run in (one, two)]
            lines.append(f"| {name} | {steps:.0f} | {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scores_table(first: dict[str, Any], second: dict[str, Any]) -> str:
    """`sample`'s scores of both runs, over the prompts that both read, as a Markdown table."""
    one, two = ({result["prompt"]: result for result in run["results"]} for run in (first, second))
    shared = [prompt for prompt in one if prompt in two]
    lines = [f"| {len(shared)} prompts | first run | second run | second minus first |"]
    lines.append("|---|---|---|---|")
    for key in ("adherence", "everything") if shared else ():
        values = [np.array([float(run[prompt][key]) for prompt in shared]) for run in (one, two)]
        gap = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(values[1] - values[0]))
        lines.append(f"| {key} | {values[0].mean():.3f} | {values[1].mean():.3f} | {gap} |")
    return "\n".join(lines)


def longruns_table(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Second minus first of two reports of `longrun`, policy by policy, as a Markdown table."""
    if first["seconds"] != second["seconds"]:
        raise ValueError(f"videos of {first['seconds']} and {second['seconds']} s")
    found = {}
    for policy, curves in second["policies"].items():
        gaps = policy in first["policies"] and differences(curves, first["policies"][policy])
        if gaps:
            found[policy] = gaps
    return differences_table(found, "second minus first")


def plot(first: Path, second: Path, path: Path) -> None:
    """Draw the columns of every stage in both runs, one above the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        (f"{name}: {column}", one["step"], one[column], two["step"], two[column])
        for name, one, two in stages(first, second)
        for column in one
        if column not in ("step", "seconds")
    ]
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(14, 2.6 * rows), layout="constrained")
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


def main() -> None:
    """Print the tables, draw the curves."""
    config: dict[str, Any] = load_config(__doc__)
    first, second, out = (Path(config[key]) for key in ("first", "second", "out"))
    out.mkdir(parents=True, exist_ok=True)
    if not any(stages(first, second)):
        raise SystemExit(f"no stage of {first} has a curve in {second}")
    print(curves_table(first, second))
    plot(first, second, out / "curves.png")
    for name, kept, compare in (
        ("samples/scores.json", "scores.json", scores_table),
        ("longrun/report.json", "longrun.json", longruns_table),
    ):
        if (second / name).is_file():
            one, two = (json.loads(path.read_text()) for path in (first / kept, second / name))
            print("", compare(one, two), sep="\n")


if __name__ == "__main__":
    main()
