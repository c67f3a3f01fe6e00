"""The page: worst first, in words for whoever does not see it, and nothing from outside as HTML."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from tethercache.evaluation.chart import charts, limits_of
from tethercache.evaluation.options import Options
from tethercache.evaluation.page import page
from tethercache.evaluation.report import to_csv, to_markdown
from tethercache.evaluation.result import Skipped, VideoResult
from tethercache.evaluation.suite import Report, worst_first
from tethercache.evaluation.tables import number, time, verdict
from tethercache.evaluation.verdict import THRESHOLDS


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def all(self, tag: str, attribute: str) -> list[str]:
        return [str(a[attribute]) for t, a in self.found if t == tag and attribute in a]


@pytest.fixture
def report(results: dict[str, VideoResult]) -> Report:
    ours = [
        dataclasses.replace(results[fault], name=f"{fault}.mp4")
        for fault in ("none", "saturation", "cut", "brightness")
    ]
    baseline = [dataclasses.replace(results["blur"], name="none.mp4")]
    return Report(ours, baseline, [Skipped("odd.mp4", "odd.mp4", "is empty")], Options())


def test_the_worst_come_first(report: Report) -> None:
    order = [video.name for video in worst_first(report.videos)]
    words = [video.verdict for video in worst_first(report.videos)]
    assert words == sorted(words, key=["drifting", "watch", "stable"].index)
    html = page(report)
    cards = html[html.index("<section") :]
    assert sorted(order, key=cards.index) == order
    markdown = to_markdown(report)
    assert sorted(order, key=markdown.index) == order


def test_pictures_and_charts_are_said_in_words(report: Report) -> None:
    elements = Elements(page(report))
    texts = elements.all("img", "alt")
    assert len(texts) == 3 * 5
    assert "Middle frame of saturation.mp4, at 10 s" in texts
    assert "Last frame of none.mp4, baseline, at 20 s" in texts
    assert all(texts)
    (label,) = [
        label
        for label in elements.all("svg", "aria-label")
        if label.startswith("Chroma, change") and "baseline" in label
    ]
    assert re.search(r"second by second: .* at the start, .* at the end, furthest from 0 at", label)
    (chroma,) = (t for t in THRESHOLDS if t.metric == "chroma")
    assert f"drift is beyond {' and '.join(f'{limit:g}' for limit in limits_of(chroma))}" in label


def test_two_lines_differ_by_more_than_colour_and_bear_their_values(report: Report) -> None:
    html = page(report)
    assert re.search(r"path\.base \{[^}]*stroke-dasharray", html)
    pair = [video for both in report.pairs() for video in both]
    for plot in charts(pair):
        ours, base = plot.lines
        assert ours.last is not None
        assert base.last is not None
        assert abs(ours.last.y - base.last.y) > 10
        assert ours.last.text == number(pair[0].curves[_name(plot.title)][-1])
    assert '<circle class="mark ours"' in html
    assert '<rect class="mark base"' in html
    assert "prefers-color-scheme: dark" in html


def test_edits_and_the_worst_window_are_shown(results: dict[str, VideoResult]) -> None:
    cut = results["cut"]
    assert verdict(cut).endswith(", 1 cut")
    assert all(plot.edits[0].text == "cut, 8 s" for plot in charts([cut]))
    bad = results["saturation"]
    (plot,) = (plot for plot in charts([bad]) if plot.title.startswith("Chroma"))
    assert plot.lines[0].worst is not None
    assert f"worst window: {number(bad.worst['chroma']['change'])}, " in plot.lines[0].worst.text
    assert all(plot.lines[0].worst is None for plot in charts([results["none"]]))


def _name(title: str) -> str:
    from tethercache.evaluation.chart import TITLES

    return next(name for name, known in TITLES.items() if known == title)


def test_nothing_from_outside_is_html(report: Report) -> None:
    script = "\"'><script>alert(1)</script>\x1b[2J\u202e"
    bad = dataclasses.replace(
        report.videos[0],
        name=script,
        reasons=[script],
        notes=[script],
        warnings=[script],
        components={script: "watch"},
        thumbnails=[script],
    )
    worse = dataclasses.replace(
        report,
        videos=[bad],
        skipped=[Skipped(script, script, script)],
        warnings=[script],
        failed=[script],
    )
    html, markdown = page(worse), to_markdown(worse)
    assert "script" not in [tag for tag, _ in Elements(html).found]
    assert not [tag for tag, names in Elements(html).found for name in names if name[:2] == "on"]
    for text in (html, markdown, to_csv(worse)):
        assert not re.search("[\x00-\x08\x1b\u202e]", text)
    assert "<script" not in html + markdown


def test_what_begins_like_a_formula_is_text(report: Report) -> None:
    for name in ("=1+1", "+1", "-1", "@a", "\t=1"):
        odd = dataclasses.replace(report, videos=[dataclasses.replace(report.videos[0], name=name)])
        row = to_csv(odd).splitlines()[1]
        assert not re.match(r'ours,"?[=+@\t-]', row)


def test_a_name_is_no_markdown(report: Report) -> None:
    name = "a|b_c_ *d* `e` [f](http://g) <i>#\\.mp4"
    odd = dataclasses.replace(report, videos=[dataclasses.replace(report.videos[0], name=name)])
    shown = "a\\|b_c\\_ \\*d\\* \\`e\\` \\[f\\](http:&#47;/g) &lt;i&gt;\\#\\\\.mp4"
    assert f"| {shown} |" in to_markdown(odd)


def test_a_report_of_nothing_has_a_page() -> None:
    html = page(Report([], [], [Skipped("a", "a", "is empty")], Options()))
    assert "skipped: a is empty" in html


def test_numbers_have_one_format() -> None:
    assert [number(v) for v in (None, 0.0, 0.05, 1.234, -56.78, 1234.5)] == [
        "-",
        "0",
        "0.050",
        "1.23",
        "-56.8",
        "1234",
    ]
    assert (number(0.0, "+"), number(2.0, "+")) == ("0", "+2")
    assert (time(59.8), time(240)) == ("60 s", "4:00 min")
