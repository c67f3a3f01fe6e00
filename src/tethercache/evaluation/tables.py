"""The tables of a report, once for every reader: the terminal, Markdown and the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.result import VideoResult
from tethercache.evaluation.suite import Report, better, compare, worst_first

SHORT = {
    "colour_difference": "ΔE",
    "chroma": "chroma",
    "log_sharpness": "sharp",
    "motion_level": "motion",
    "motion_retention": "kept",
    "embedding_drift": "embed",
}
"""The columns of the table of videos: the symptoms, and the motion that stands beside them."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        tone: a verdict, `good` or `bad`, where it has one.
        hint: what it means.
    """

    text: str
    tone: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """Heads and rows of equal length; the first `words` columns are words, the others numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1


def number(value: float | None, sign: str = "") -> str:
    """Three significant digits, whole from 100 on; a dash for what was not measured."""
    if value is None:
        return "-"
    sign = sign if value else ""
    if abs(value) >= 100:
        return f"{value:{sign}.0f}"
    return f"{value:{sign}.3g}" if abs(value) >= 0.1 or not value else f"{value:{sign}.3f}"


def time(second: float) -> str:
    """A second of a video, as minutes from 2 minutes on."""
    return f"{second:.0f} s" if second < 120 else f"{second // 60:.0f}:{second % 60:02.0f} min"


def verdict(video: VideoResult) -> str:
    """The verdict, with the edits that it depends on."""
    kinds = Counter(str(edit["kind"]) for edit in video.edits)
    return ", ".join([video.verdict, *(plural(count, kind) for kind, count in kinds.items())])


def plural(count: int, word: str) -> str:
    """How many of what."""
    return f"{count} {word}{'' if count == 1 else 'es' if word.endswith('sh') else 's'}"


def first_onset(video: VideoResult) -> str:
    """When the first symptom began; empty if none did."""
    onsets = [second for second in video.onset.values() if second is not None]
    return time(min(onsets)) if onsets else ""


def video_tables(report: Report) -> list[Table]:
    """A row a video, the worst first; the baseline's in a table of their own."""
    names = [name for name in SHORT if name in report.options.metrics()]
    made = []
    for title, videos in (("video", report.videos), ("baseline", report.baseline)):
        rows = [
            [
                Cell(video.name),
                Cell(verdict(video), tone=video.verdict),
                *(Cell(number(video.metrics.get(name))) for name in names),
                Cell(first_onset(video)),
            ]
            for video in worst_first(videos)
        ]
        heads = [title, "verdict", *(SHORT[name] for name in names), "onset"]
        made.append(Table(title, heads, rows, words=2))
    return [table for table in made if table.rows]


def pair_table(report: Report) -> Table | None:
    """A row a metric, over all pairs; None without pairs."""
    pairs = report.pairs()
    if not pairs:
        return None
    rows = []
    for name, found in compare(pairs)["metrics"].items():
        interval = found["difference"]["interval"]
        counts = found["better"] != "neither"
        texts = [
            f"{found['wins']} of {found['n']}" if counts else "",
            number(found["ours"]),
            number(found["baseline"]),
            number(found["difference"]["mean"], "+"),
            f"{number(interval[0], '+')} to {number(interval[1], '+')}" if interval else "",
        ]
        rows.append([_metric_cell(name), Cell(found["better"]), *map(Cell, texts)])
    heads = ["metric", "better is", "better in", "ours", "baseline", "difference", "95 % interval"]
    return Table("pairs", heads, rows, words=2)


def number_table(videos: Sequence[VideoResult]) -> Table:
    """Every number of a video, or of a video and its baseline."""
    rows = []
    for name in videos[0].metrics:
        cells = [_metric_cell(name, unit=True)]
        for i, video in enumerate(videos):
            won = better(name, videos[0], videos[1]) if i == 0 and len(videos) == 2 else None
            tone = "" if won is None else "good" if won else "bad"
            levels = [video.start.get(name), video.end.get(name)]
            shown = "" if None in levels else " → ".join(map(number, levels))
            onset = video.onset.get(name)
            cells += [
                Cell(number(video.metrics.get(name)), tone),
                Cell(shown),
                Cell("" if onset is None else time(onset)),
            ]
        rows.append(cells)
    heads = ["metric"]
    for label in ("", " (baseline)")[: len(videos)]:
        heads += [f"value{label}", "start → end", "onset"]
    return Table("all numbers", heads, rows)


def _metric_cell(name: str, *, unit: bool = False) -> Cell:
    entry = METRICS[name]
    text = f"{name} ({entry.unit})" if unit and entry.unit else name
    return Cell(text, hint=entry.summary)
