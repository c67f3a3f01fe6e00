"""A report for every reader: terminal table, JSON, CSV, Markdown; the page is in `page.py`."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Literal

import rich.table
from rich.text import Text

from tethercache.arguments import as_path
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.page import page
from tethercache.evaluation.result import rounded
from tethercache.evaluation.suite import Report, better, worst_first
from tethercache.evaluation.tables import Cell, Table, pair_table, video_tables
from tethercache.files import check_free, write_atomically
from tethercache.text import one_line, printable

STYLE = {"stable": "green", "watch": "yellow", "drifting": "bold red"}


FILES = ("results.json", "results.csv", "report.md", "report.html")


def prepare_folder(folder: Path) -> None:
    """Make the folder of a report, and refuse it before anything is measured.

    Raises:
        ValueError: it is no path.
        OSError: it cannot be made, or a folder or pipe has the name of a file of the report.
    """
    folder = as_path("folder", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except RecursionError:  # it goes up parent by parent
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(folder)) from None
    for name in FILES:
        check_free(folder / name, overwrite=True)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write results.json, results.csv, report.md and report.html; returns their paths."""
    prepare_folder(folder)
    contents = (to_json(report), to_csv(report), to_markdown(report), page(report))
    for name, content in zip(FILES, contents, strict=True):
        write_atomically(folder / name, content)
    return [folder / name for name in FILES]


def to_json(report: Report) -> str:
    """The whole report, one schema."""
    text = json.dumps(rounded(report.as_json()), indent=1, ensure_ascii=False)
    return printable(text) + "\n"  # its escapes are those of JSON


def _measured(report: Report) -> list[str]:
    return list(report.options.metrics())


def to_csv(report: Report) -> str:
    """A row a video, skipped ones with their reason; the baseline's follow."""
    names = _measured(report)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["set", "name", "verdict", *names, "seconds", "fps", "notes"])
    for label, videos in (("ours", report.videos), ("baseline", report.baseline)):
        for video in videos:
            values = [rounded(video.metrics.get(name)) for name in names]
            size = [rounded(video.video["seconds"]), rounded(video.video["fps"])]
            notes = _cell("; ".join([*video.reasons, *video.notes, *video.warnings]))
            writer.writerow([label, _cell(video.name), video.verdict, *values, *size, notes])
    for skipped in report.skipped:
        row = [
            "skipped",
            _cell(skipped.name),
            "",
            *[""] * len(names),
            "",
            "",
            _cell(skipped.reason),
        ]
        writer.writerow(row)
    return out.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def to_markdown(report: Report) -> str:
    """The tables, for an issue or a pull request."""
    lines = ["# Drift report", ""]
    for table in video_tables(report):
        lines += [*markdown_table(table), ""]
    lines += [*(f"* {_markdown(text)}" for text in said(report)), ""]
    if pairs := pair_table(report):
        lines += [f"## {len(report.pairs())} pairs", "", *markdown_table(pairs), ""]
    for title, texts in _closing(report):
        lines += [f"## {title}", "", *[f"* {_markdown(text)}" for text in texts], ""]
    return "\n".join(lines)


def markdown_table(table: Table) -> list[str]:
    """A table as lines of Markdown."""
    rule = ["---"] * table.words + ["---:"] * (len(table.heads) - table.words)
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return ["| " + " | ".join(cells) + " |" for cells in (table.heads, rule, *rows)]


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    return f"**{text}**" if cell.tone else text


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, links, pictures or marks."""
    escaped = re.sub(r"([\\`*\[\]~|#])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", one_line(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("://", ":&#47;/")


def _closing(report: Report) -> list[tuple[str, list[str]]]:
    parts = [
        ("Skipped", [f"{skipped.path} {skipped.reason}" for skipped in report.skipped]),
        ("Warnings", report.warnings),
        ("Failed", report.failed),
    ]
    return [(title, texts) for title, texts in parts if texts]


def tables(report: Report) -> list[rich.table.Table]:
    """What the terminal shows."""
    made = [*video_tables(report), *filter(None, [pair_table(report)])]
    return [terminal_table(table) for table in made]


def terminal_table(table: Table) -> rich.table.Table:
    """A table as the terminal shows it."""
    made = rich.table.Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
    for i, head in enumerate(table.heads):
        side: Literal["left", "right"] = "left" if i < table.words else "right"
        made.add_column(head, justify=side, no_wrap=i > 0, overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(one_line(cell.text), STYLE.get(cell.tone, "")) for cell in row))
    return made


def said(report: Report) -> list[str]:
    """Reasons, notes and warnings of each video, the worst first, a line each."""
    lines = []
    for label, videos in (("", report.videos), ("baseline ", report.baseline)):
        for video in worst_first(videos):
            texts = [*video.reasons, *video.notes, *video.warnings]
            lines += [f"{label}{video.name}: {'; '.join(texts)}"] * bool(texts)
    return lines


def sentences(report: Report) -> list[str]:
    """What the tables cannot say, a line each."""
    lines = [*map(one_line, said(report))]
    lines += map(one_line, report.warnings)
    pairs = report.pairs()
    if report.baseline and not pairs:
        lines.append("no video of the baseline has the name of one of ours")
    if pairs:
        wins = [sum(better(name, *pair) is True for name in METRICS) for pair in pairs]
        total = [sum(better(name, *pair) is not None for name in METRICS) for pair in pairs]
        lines.append(
            f"{len(pairs)} pairs; better than the baseline in {sum(wins)} of {sum(total)} numbers"
        )
    return lines
