"""A report for every reader: terminal table, JSON, CSV, Markdown; the page is in `page.py`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from tethercache.evaluation.measure import VideoResult, rounded
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.page import page
from tethercache.evaluation.suite import Report, better, compare, worst_first
from tethercache.text import one_line, printable
from tethercache.video.files import write_atomically

SHORT = {
    "colour_difference": "ΔE",
    "chroma": "chroma",
    "log_sharpness": "sharp",
    "motion_level": "motion",
    "motion_retention": "kept",
    "embedding_drift": "embed",
}
"""The columns of the terminal table: the symptoms, and the motion that stands beside them."""

STYLE = {"stable": "green", "watch": "yellow", "drifting": "bold red"}


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write results.json, results.csv, report.md and report.html; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "results.json": to_json(report),
        "results.csv": to_csv(report),
        "report.md": to_markdown(report),
        "report.html": printable(page(report)),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


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
    names = [name for name in SHORT if name in _measured(report)]
    lines = ["# Drift report", ""]
    for label, videos in (("Videos", report.videos), ("Baseline", report.baseline)):
        if videos:
            lines += [f"## {label}", ""]
            lines += _markdown_row(["video", "verdict", *[SHORT[name] for name in names], "notes"])
            lines += ["|---" * (len(names) + 3) + "|"]
            for video in worst_first(videos):
                values = [number(video.metrics.get(name)) for name in names]
                notes = _markdown("; ".join([*video.reasons, *video.notes, *video.warnings]))
                name = _markdown(video.name)
                lines += _markdown_row([name, f"**{video.verdict}**", *values, notes])
            lines += [""]
    if pairs := report.pairs():
        lines += [f"## {len(pairs)} pairs", ""]
        heads = ["metric", "better is", "better in", "ours", "baseline", "difference", "95 %"]
        lines += _markdown_row(heads)
        lines += ["|---" * len(heads) + "|"]
        lines += [line for row in _pair_rows(report) for line in _markdown_row(row)]
        lines += [""]
    for title, texts in _closing(report):
        lines += [f"## {title}", "", *[f"* {_markdown(text)}" for text in texts], ""]
    return "\n".join(lines)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, links, pictures or marks."""
    escaped = re.sub(r"([\\`*\[\]~|#])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", one_line(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("://", ":&#47;/")


def _markdown_row(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def _closing(report: Report) -> list[tuple[str, list[str]]]:
    parts = [
        ("Skipped", [f"{skipped.path} {skipped.reason}" for skipped in report.skipped]),
        ("Warnings", report.warnings),
        ("Failed", report.failed),
    ]
    return [(title, texts) for title, texts in parts if texts]


def _pair_rows(report: Report) -> list[list[str]]:
    rows = []
    for name, found in compare(report.pairs())["metrics"].items():
        interval = found["difference"]["interval"]
        rows.append(
            [
                name,
                found["better"],
                f"{found['wins']} of {found['n']}" if found["better"] != "neither" else "",
                number(found["ours"]),
                number(found["baseline"]),
                f"{found['difference']['mean']:+.3g}",
                f"{interval[0]:+.3g} to {interval[1]:+.3g}" if interval else "",
            ]
        )
    return rows


def number(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if value is None:
        return "-"
    if abs(value) >= 0.1 or not value:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.3f}"


def tables(report: Report) -> list[Table]:
    """What the terminal shows."""
    names = [name for name in SHORT if name in _measured(report)]
    made = [_video_table("video", report.videos, names)]
    if report.baseline:
        made.append(_video_table("baseline", report.baseline, names))
    if report.pairs():
        heads = ["metric", "wins", "ours", "baseline", "difference", "95 %"]
        pairs = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
        for i, head in enumerate(heads):
            side: Literal["left", "right"] = "right" if i else "left"
            pairs.add_column(head, justify=side, no_wrap=i > 0, overflow="fold")
        for row in _pair_rows(report):
            pairs.add_row(row[0], *row[2:])
        made.append(pairs)
    return made


def _video_table(title: str, videos: Sequence[VideoResult], names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column(title, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for name in names:
        table.add_column(SHORT[name], justify="right", no_wrap=True)
    table.add_column("onset", justify="right", no_wrap=True)
    for video in worst_first(videos):
        onsets = [second for second in video.onset.values() if second is not None]
        cuts = video.metrics.get("cuts") or 0
        plural = "cut" if cuts == 1 else "cuts"
        table.add_row(
            escape(one_line(video.name)),
            f"[{STYLE[video.verdict]}]{video.verdict}[/]" + (f", {cuts:.0f} {plural}" * bool(cuts)),
            *[number(video.metrics.get(name)) for name in names],
            f"{min(onsets):.0f} s" if onsets else "",
        )
    return table


def sentences(report: Report) -> list[str]:
    """What the tables cannot say: reasons, notes and warnings, a line each."""
    lines = []
    for label, videos in (("", report.videos), ("baseline ", report.baseline)):
        for video in worst_first(videos):
            said = [*video.reasons, *video.notes, *video.warnings]
            lines += [one_line(f"{label}{video.name}: {'; '.join(said)}")] * bool(said)
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
