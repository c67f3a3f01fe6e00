"""`tethercache eval --suite vbench-long`: totals of a finished run, or of one made here."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tethercache.cli.failures import FAILED
from tethercache.text import one_line, printable


def run(
    paths: Sequence[Path], output: Path, weights_dir: Path | None, format_: str, limit: int | None
) -> int:
    """Read or make the scores, write results.json and print them; returns the exit status."""
    from tethercache.evaluation.inputs import find_inputs
    from tethercache.evaluation.result import rounded
    from tethercache.evaluation.vbench.aggregate import aggregate
    from tethercache.evaluation.vbench.documents import is_finished_run
    from tethercache.evaluation.vbench.results import read_results
    from tethercache.evaluation.vbench.summary import as_json
    from tethercache.files import write_atomically

    if weights_dir is None:
        if len(paths) != 1 or not is_finished_run(paths[0]):
            raise ValueError(
                "--suite vbench-long needs --weights-dir to score videos, or one finished run: "
                "a folder with *_eval_results.json, a zip of it or one such file"
            )
        if limit is not None:
            raise ValueError("--limit belongs to videos, not to finished results")
        scores = read_results(paths[0])
        incomplete = bool(scores.problems)
    else:
        if not weights_dir.is_dir():
            raise ValueError(f"--weights-dir ({weights_dir}) must be a folder")
        from tethercache.evaluation.vbench.score import score_videos
        from tethercache.evaluation.vbench.weights import WEIGHTS

        inputs = find_inputs(paths, without=output)[:limit]
        scores = score_videos(inputs, weights_dir, output / "vbench", device=_device())
        scored = aggregate(scores).scores
        incomplete = bool(scores.problems) or any(name not in scored for name in WEIGHTS)
    made = as_json(scores)
    output.mkdir(parents=True, exist_ok=True)
    text = printable(json.dumps(rounded(made, digits=17), indent=1, ensure_ascii=False)) + "\n"
    write_atomically(output / "results.json", text)
    if format_ == "json":
        print(text, end="")
    elif format_ == "table":
        _print_tables(made)
    else:
        _print_rows(made, format_)
    for problem in made["problems"]:
        print(one_line(f"problem: {problem}"), file=sys.stderr)
    return FAILED if incomplete else 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _rows(made: dict[str, Any]) -> list[list[str]]:
    rows = [
        [name, f"{entry['score']:.6f}", f"{100 * entry['normalised']:.2f}", str(entry["clips"])]
        for name, entry in made["dimensions"].items()
    ]
    for name in ("quality", "semantic", "total"):
        value = made[name]
        rows.append([name, "", "not made: partial" if value is None else f"{100 * value:.2f}", ""])
    return rows


_HEADS = ("dimension", "score", "normalised x100", "clips")


def _print_tables(made: dict[str, Any]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for i, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if i == 0 else "right", no_wrap=True)
    for row in _rows(made):
        table.add_row(*row)
    console.print(table)
    console.soft_wrap = True
    for dimension, drift in made["quality_drift"].items():
        for protocol, found in drift["protocols"].items():
            span = found["interval"]
            interval = f", 95 % {span[0]:+.2f} to {span[1]:+.2f}" if span else ""
            console.print(
                f"{dimension} drift ({protocol}): mean {found['mean']:+.2f}, absolute "
                f"{found['mean_absolute']:.2f}, median {found['median']:+.2f}, n {found['n']}"
                f"{interval}",
                highlight=False,
                markup=False,
            )
    for name, entry in made["dimensions"].items():
        said = [entry["made_of"]] if "made_of" in entry else []
        if "clip_to_clip" in entry:
            said.append(f"raw similarity between clips {entry['clip_to_clip']:.4f}")
        if said:
            console.print(f"{name}: {'; '.join(said)}", highlight=False, markup=False)
    for note in made["notes"]:
        console.print(one_line(f"note: {note}"), highlight=False, markup=False)
    if made["partial"]:
        count = len(made["missing"])
        are = "dimension is" if count == 1 else "dimensions are"
        console.print(f"partial: {count} {are} missing, so no total:")
        for name, reason in made["missing"].items():
            console.print(one_line(f"  {name}: {reason}"), highlight=False, markup=False)


def _print_rows(made: dict[str, Any], format_: str) -> None:
    rows = _rows(made) + [[name, "", "missing", ""] for name in made["missing"]]
    if format_ == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([_HEADS, *rows])
        return
    print("| " + " | ".join(_HEADS) + " |\n" + "|---" * len(_HEADS) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def list_dimensions(weights_dir: Path | None, format_: str) -> int:
    """List the dimensions, the files that each needs, and which of them are there."""
    from tethercache.evaluation.vbench.dimensions import DIMENSIONS
    from tethercache.evaluation.vbench.weights import WEIGHTS, missing_weights

    lacking = missing_weights(weights_dir) if weights_dir else {}
    entries = []
    for name, dimension in DIMENSIONS.items():
        for weight in WEIGHTS.get(name, ()):
            there = weight not in lacking.get(name, []) if weights_dir else None
            entries.append(
                (name, dimension.group, weight.path, weight.purpose, there, weight.origin)
            )
        if not WEIGHTS.get(name):
            needs = "nothing" if name in WEIGHTS else "VBench itself; its results are read"
            entries.append((name, dimension.group, needs, "", None, ""))
    heads = ("dimension", "group", "file", "for", "there", "origin")
    if format_ == "json":
        print(json.dumps([dict(zip(heads, entry, strict=True)) for entry in entries], indent=1))
        return 0
    table = Table("dimension", "there", "file and origin", box=None, pad_edge=False)
    for name, _, file, purpose, there, origin in entries:
        shown = {True: "[green]yes[/]", False: "[yellow]no[/]", None: ""}[there]
        what = f"{file} [dim]({purpose}; {origin})" if origin else file
        table.add_row(name, shown, what)
    Console().print(table)
    return 0
