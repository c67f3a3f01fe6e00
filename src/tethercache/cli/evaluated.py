"""What `tethercache eval` prints: its report, and the list of metrics."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tethercache.evaluation.metrics import METRICS
from tethercache.text import one_line

if TYPE_CHECKING:
    from tethercache.evaluation.suite import Report


class Suite(StrEnum):
    """What is evaluated."""

    DRIFT = "drift"
    VBENCH_LONG = "vbench-long"


class Format(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


def show(report: Report, format_: Format, output: Path) -> None:
    """Write a report into a folder, and print it in a format."""
    from tethercache.evaluation import report as reports

    written = reports.write_report(report, output)
    if format_ is Format.TABLE:
        out = Console()
        for table in reports.tables(report):
            out.print(table)
            out.print()
        for line in reports.sentences(report):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    else:
        make = {
            Format.JSON: reports.to_json,
            Format.CSV: reports.to_csv,
            Format.MD: reports.to_markdown,
        }[format_]
        print(make(report), end="")
    for skipped in report.skipped:
        print(one_line(f"skipped: {skipped.path} {skipped.reason}"), file=sys.stderr)
    for text in report.failed:
        print(one_line(f"failed: {text}"), file=sys.stderr)
    print(one_line(f"report: {written[-1]}"), file=sys.stderr)


def list_metrics(format_: Format, suite: Suite, weights_dir: Path | None) -> int:
    """Print what `--list` asks for."""
    if suite is Suite.VBENCH_LONG:
        from tethercache.cli.vbench_long import list_dimensions

        return list_dimensions(weights_dir, format_.value)
    if format_ is Format.JSON:
        print(json.dumps(_metric_list(), indent=1, ensure_ascii=False))
    else:
        Console().print(_metric_table())
    return 0


def _metric_table() -> Table:
    """What `--list` shows."""
    table = Table("metric", "needs", "here", "better", "what it is", "reference", box=None)
    for name in METRICS:
        entry = METRICS[name]
        here = "[yellow]no[/]" if entry.missing else "[green]yes[/]"
        unit = f" ({entry.unit})" if entry.unit else ""
        summary = entry.summary + unit
        table.add_row(f"[bold]{name}", entry.needs, here, entry.better, summary, entry.source)
    return table


def _metric_list() -> list[dict[str, Any]]:
    """What `--list --format json` prints."""
    return [
        {
            "name": name,
            "needs": METRICS[name].needs,
            "missing": METRICS[name].missing,
            "better": METRICS[name].better,
            "unit": METRICS[name].unit,
            "summary": METRICS[name].summary,
            "reference": METRICS[name].source,
        }
        for name in METRICS
    ]
