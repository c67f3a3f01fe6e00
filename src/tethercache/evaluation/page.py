"""The report as one HTML file that needs nothing else: pictures inside, curves as SVG.

What is said is decided here, how it looks in `templates/`, where all text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import jinja2

from tethercache.evaluation import chart
from tethercache.evaluation.chart import Chart, charts
from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.result import VideoResult
from tethercache.evaluation.suite import Report, worst_first
from tethercache.evaluation.tables import (
    Cell,
    Table,
    first_onset,
    number_table,
    pair_table,
    time,
    verdict,
    video_tables,
)
from tethercache.evaluation.verdict import THRESHOLDS, WHOLE
from tethercache.text import printable

_HOMES = ("evaluation", "comparison")  # stages with templates
_WORDS = ("stable", "watch", "drifting")


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    value: str
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Picture:
    """A thumbnail: JPEG in base64, what it is, and when."""

    data: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Side:
    """One video of a card.

    Attributes:
        title: its name, or which of the two it is.
        tone: its verdict, one word.
        verdict: the same with what it depends on.
        pictures: first, middle and last frame.
        symptoms: each component with its verdict.
        reasons: what led to the verdict.
        notes: what must be known beside it.
    """

    title: str
    tone: str
    verdict: str
    pictures: Sequence[Picture]
    symptoms: Sequence[Cell]
    reasons: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True)
class Card:
    """One video, or a video and its baseline side by side."""

    title: str
    sides: Sequence[Side]
    charts: Sequence[Chart]
    numbers: Table


def page(report: Report) -> str:
    """The HTML of a report."""
    template = environment().get_template("report.html")
    seconds = sum(video.video["seconds"] for video in (*report.videos, *report.baseline))
    html = template.render(
        seconds=time(seconds),
        window=f"{DEFAULT_PROTOCOL.seconds:g} s",
        tiles=_tiles(report),
        messages=_messages(report),
        overview=video_tables(report),
        pairs=pair_table(report),
        cards=_cards(report),
        thresholds=_thresholds(),
        chart=chart,
    )
    return printable(html)


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """What renders our pages: all text is escaped, and what is not there is an error."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(f"tethercache.{each}") for each in _HOMES]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tiles(report: Report) -> list[Tile]:
    made = [Tile(str(len(report.videos)), "video" if len(report.videos) == 1 else "videos")]
    for word in reversed(_WORDS):
        if count := sum(video.verdict == word for video in report.videos):
            made.append(Tile(str(count), word, word))
    if report.baseline:
        drifting = sum(video.verdict == "drifting" for video in report.baseline)
        made.append(Tile(f"{drifting} of {len(report.baseline)}", "of the baseline drift"))
    if report.skipped:
        made.append(Tile(str(len(report.skipped)), "skipped", "watch"))
    return made


def _messages(report: Report) -> list[str]:
    return [
        *(f"failed: {text}" for text in report.failed),
        *(f"skipped: {skipped.path} {skipped.reason}" for skipped in report.skipped),
        *report.warnings,
    ]


def _cards(report: Report) -> list[Card]:
    """Pairs and single videos, the worst of ours first; then what is the baseline's alone."""
    partners = {id(ours): baseline for ours, baseline in report.pairs()}
    paired = {id(baseline) for baseline in partners.values()}
    cards = []
    for video in worst_first(report.videos):
        partner = partners.get(id(video))
        cards.append(_card([video] if partner is None else [video, partner]))
    alone = [video for video in report.baseline if id(video) not in paired]
    return cards + [_card([video], "baseline: ") for video in worst_first(alone)]


def _card(videos: Sequence[VideoResult], prefix: str = "") -> Card:
    name = prefix + videos[0].name
    titles = [name] if len(videos) == 1 else ["ours", "baseline"]
    return Card(
        title=name,
        sides=[_side(title, video) for title, video in zip(titles, videos, strict=True)],
        charts=charts(videos),
        numbers=number_table(videos),
    )


def _side(title: str, video: VideoResult) -> Side:
    onset = first_onset(video)
    begins = [f"the first symptom begins at {onset}"] if onset and video.reasons else []
    return Side(
        title=title,
        tone=video.verdict,
        verdict=verdict(video),
        pictures=_pictures(title, video),
        symptoms=[Cell(name, tone=word) for name, word in video.components.items()],
        reasons=[*video.reasons, *begins],
        notes=[*video.notes, *video.warnings],
    )


def _pictures(title: str, video: VideoResult) -> list[Picture]:
    seconds = video.video["seconds"]
    subject = video.name if title in ("ours", video.name) else f"{video.name}, {title}"
    places = (("First", 0.0), ("Middle", seconds / 2), ("Last", seconds))
    return [
        Picture(data, f"{place} frame of {subject}, at {time(second)}", time(second))
        for data, (place, second) in zip(video.thumbnails, places, strict=False)
    ]


def _thresholds() -> Table:
    rows = []
    for threshold in (*THRESHOLDS, *WHOLE):
        sign = "<" if threshold.is_ratio else ">"
        levels = (threshold.watch, threshold.drifting, threshold.extreme)
        rows.append(
            [
                Cell(threshold.component),
                Cell(threshold.metric, hint=METRICS[threshold.metric].summary),
                Cell(threshold.provenance),
                *(Cell("-" if level is None else f"{sign} {level:g}") for level in levels),
            ]
        )
    heads = ["symptom", "metric", "found on", "watch", "symptom of drift", "drift by itself"]
    return Table("thresholds", heads, rows, words=3)
