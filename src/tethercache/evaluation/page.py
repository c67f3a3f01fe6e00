"""The report as one HTML file that needs nothing else: pictures inside, curves as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.measure import VideoResult
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.suite import Report, better, compare
from tethercache.evaluation.verdict import THRESHOLDS

_CURVES = {
    "colour_difference": "Colour difference, ΔE",
    "chroma": "Chroma, change",
    "log_sharpness": "Log sharpness, change",
    "motion_retention": "Motion, of the start",
    "luma": "Luma, change",
    "embedding_drift": "Embedding, 1 - cosine",
    "motion_level": "Motion, px a frame",
}
_MOST_CURVES = 6
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 300, 128, 34, 18

_STYLE = """
:root{--ink:#1c2230;--soft:#667085;--line:#e4e7ee;--card:#fff;--back:#f5f6fa;--ours:#2563eb;
--base:#b4552d;--stable:#16794c;--watch:#a36a00;--drifting:#c22f2f}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaf2;--soft:#97a0b3;--line:#2b3242;--card:#181d29;
--back:#10141d;--ours:#7aa5ff;--base:#f0996e;--stable:#4cc38a;--watch:#e3b341;--drifting:#ff7b72}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:28px;letter-spacing:-.02em;margin:0 0 4px}
h2{font-size:19px;letter-spacing:-.01em;margin:40px 0 12px}
h3{font-size:16px;margin:0;overflow-wrap:anywhere}
p{margin:6px 0}.soft,figcaption,th{color:var(--soft)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:22px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 18px;
min-width:128px}.tile b{display:block;font-size:26px;line-height:1.2;letter-spacing:-.02em}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px;
margin:0 0 18px}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:22px}
.sides.single{grid-template-columns:1fr}
@media(max-width:760px){.sides{grid-template-columns:1fr}}
.head{display:flex;align-items:center;gap:10px;justify-content:space-between;margin:0 0 10px}
.badge{font-size:13px;font-weight:650;padding:2px 11px;border-radius:99px;white-space:nowrap;
color:var(--tone);border:1.5px solid var(--tone)}
.stable{--tone:var(--stable)}.watch{--tone:var(--watch)}.drifting{--tone:var(--drifting)}
.strip{display:grid;grid-template-columns:repeat(3,1fr);gap:6px;max-width:720px}
.strip figure{margin:0}.strip img{width:100%;display:block;border-radius:8px;background:#0003}
figcaption{font-size:12px;padding-top:3px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(285px,1fr));gap:14px 18px;
margin-top:18px}.curves figure{margin:0}
.curves figcaption{padding:0 0 2px;font-size:13px;font-weight:600;color:var(--ink)}
svg{width:100%;height:auto;display:block}svg text{font-size:10px;fill:var(--soft)}
.ours{stroke:var(--ours)}.base{stroke:var(--base)}path{fill:none;stroke-width:1.8}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th{font-weight:500;text-align:left;font-size:12.5px}td,th{padding:5px 10px 5px 0;
border-bottom:1px solid var(--line)}td.n,th.n{text-align:right}tr:last-child td{border-bottom:0}
.scroll{overflow-x:auto}.key{display:inline-block;width:18px;height:3px;border-radius:2px;
vertical-align:middle;margin-right:6px;background:var(--ours)}.key.b{background:var(--base)}
details{margin-top:14px}summary{cursor:pointer;color:var(--soft)}
ul{margin:8px 0;padding-left:20px}b.good{color:var(--stable)}b.bad{color:var(--drifting)}
"""


def page(report: Report) -> str:
    """The HTML of a report."""
    pairs = report.pairs()
    paired = {id(video) for pair in pairs for video in pair}
    cards = [_card([ours, baseline]) for ours, baseline in pairs]
    rest = [video for video in (*report.videos, *report.baseline) if id(video) not in paired]
    cards += [_card([video]) for video in rest]
    body = [
        "<h1>Does it drift?</h1>",
        f'<p class="soft">{_subtitle(report)}</p>',
        _tiles(report),
        _lists(report),
    ]
    if pairs:
        body += ["<h2>Against the baseline</h2>", _pair_table(report)]
    body += [f"<h2>{'Pairs' if pairs else 'Videos'}</h2>", _legend() if pairs else "", *cards]
    body += ["<h2>How to read this</h2>", _thresholds()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Drift report</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _subtitle(report: Report) -> str:
    window = f"the first {DEFAULT_PROTOCOL.seconds:g} s against the last"
    seconds = sum(video.video["seconds"] for video in (*report.videos, *report.baseline))
    return f"{seconds:.0f} s of video, {window}; each symptom beside the motion, second by second."


def _tiles(report: Report) -> str:
    def tile(value: object, text: str, tone: str = "") -> str:
        style = f' style="color:var(--{tone})"' if tone else ""
        return f'<div class="tile"><b{style}>{value}</b><span class="soft">{text}</span></div>'

    made = [tile(len(report.videos), "videos")]
    for word in ("stable", "watch", "drifting"):
        if count := sum(video.verdict == word for video in report.videos):
            made.append(tile(count, word, word))
    if report.baseline:
        drifting = sum(video.verdict == "drifting" for video in report.baseline)
        made.append(tile(f"{drifting} of {len(report.baseline)}", "of the baseline drift"))
    if report.skipped:
        made.append(tile(len(report.skipped), "skipped", "watch"))
    return f'<div class="tiles">{"".join(made)}</div>'


def _lists(report: Report) -> str:
    texts = [f"skipped: {skipped.path} {skipped.reason}" for skipped in report.skipped]
    texts += [*report.warnings, *(f"failed: {text}" for text in report.failed)]
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>" if texts else ""


def _legend() -> str:
    return (
        '<p class="soft"><span class="key"></span>ours &nbsp; <span class="key b"></span>baseline '
        "&nbsp; dashed: from here on it counts as drift</p>"
    )


def _pair_table(report: Report) -> str:
    rows = []
    for name, found in compare(report.pairs())["metrics"].items():
        interval = found["difference"]["interval"]
        span = f"{interval[0]:+.3g} to {interval[1]:+.3g}" if interval else ""
        counts = found["better"] != "neither"
        cells = [
            f"{found['wins']} of {found['n']}" if counts else "",
            _number(found["ours"]),
            _number(found["baseline"]),
            f"{found['difference']['mean']:+.3g}",
            span,
        ]
        what = escape(METRICS[name].summary)
        rows.append(
            f'<tr><td title="{what}">{name}</td><td class="soft">{found["better"]}</td>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    heads = ("better in", "ours", "baseline", "difference", "95 % interval")
    return (
        '<div class="card scroll"><table><tr><th>metric</th><th>better is</th>'
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + f"</tr>{''.join(rows)}</table></div>"
    )


def _card(videos: Sequence[VideoResult]) -> str:
    """One video, or a video and its baseline side by side."""
    labels = ("ours", "baseline")
    sides = []
    for label, video in zip(labels, videos, strict=False):
        title = escape(video.name) if len(videos) == 1 else label
        cuts = video.metrics.get("cuts") or 0
        word = video.verdict + (f", {cuts:.0f} cut{'s' * (cuts != 1)}" if cuts else "")
        times = (0.0, video.video["seconds"] / 2, video.video["seconds"])
        strip = "".join(
            f'<figure><img alt="" src="data:image/jpeg;base64,{image}">'
            f"<figcaption>{time:.0f} s</figcaption></figure>"
            for image, time in zip(video.thumbnails, times, strict=False)
        )
        said = [*video.reasons, *video.notes, *video.warnings]
        sides.append(
            f'<div><div class="head"><h3>{title}</h3>'
            f'<span class="badge {video.verdict}">{word}</span></div>'
            f'<div class="strip">{strip}</div>'
            f'<p class="soft">{escape("; ".join(said)) or "no symptom"}</p></div>'
        )
    heading = f'<div class="head"><h3>{escape(videos[0].name)}</h3></div>' * (len(videos) > 1)
    names = [name for name in _CURVES if any(name in video.curves for video in videos)]
    curves = "".join(_curve(name, _CURVES[name], videos) for name in names[:_MOST_CURVES])
    single = " single" * (len(videos) == 1)
    return (
        f'<section class="card">{heading}<div class="sides{single}">{"".join(sides)}</div>'
        f'<div class="curves">{curves}</div>'
        f"<details><summary>All numbers</summary>{_numbers(videos)}</details></section>"
    )


def _numbers(videos: Sequence[VideoResult]) -> str:
    rows = []
    for name in videos[0].metrics:
        cells = []
        for i, video in enumerate(videos):
            text = _number(video.metrics.get(name))
            if i == 0 and len(videos) == 2:
                won = better(name, videos[0], videos[1])
                text = text if won is None else f'<b class="{"good" if won else "bad"}">{text}</b>'
            levels = [video.start.get(name), video.end.get(name)]
            shown = "" if None in levels else " → ".join(_number(level) for level in levels)
            onset = video.onset.get(name)
            cells += [text, shown, "" if onset is None else f"{onset:.0f} s"]
        what = escape(METRICS[name].summary)
        unit = escape(METRICS[name].unit)
        rows.append(
            f'<tr><td title="{what}">{name} <span class="soft">{unit}</span></td>'
            + "".join(f'<td class="n">{cell}</td>' for cell in cells)
            + "</tr>"
        )
    labels = ("", " (baseline)")[: len(videos)]
    heads = "".join(
        f'<th class="n">value{label}</th><th class="n">start → end</th><th class="n">onset</th>'
        for label in labels
    )
    return (
        f'<div class="scroll"><table><tr><th>metric</th>{heads}</tr>{"".join(rows)}</table></div>'
    )


def _curve(name: str, title: str, videos: Sequence[VideoResult]) -> str:
    """A small chart of one metric; the start is shaded, the threshold dashed, cuts dotted."""
    lines = [video.curves.get(name, []) for video in videos]
    values = [value for line in lines for value in line if value is not None]
    if not values:
        return ""
    limits = [t for t in THRESHOLDS if t.metric == name]
    low, high = min(0.0, *values), max(0.0, *values)
    for threshold in limits:
        high = max(high, threshold.drifting * 1.15)
        if METRICS[name].better == "lower" and low < 0:
            low = min(low, -threshold.drifting * 1.15)
    seconds = max(len(line) for line in lines)
    right, top = _WIDTH - 10, 6
    floor = _HEIGHT - _BOTTOM

    def x(second: float) -> float:
        return _LEFT + (right - _LEFT) * second / max(seconds, 1)

    def y(value: float) -> float:
        return floor - (floor - top) * (value - low) / max(high - low, 1e-9)

    window = min(DEFAULT_PROTOCOL.seconds, seconds / 2)
    parts = [
        f'<rect x="{_LEFT}" y="{top}" width="{x(window) - _LEFT:.1f}" height="{floor - top}" '
        'fill="var(--soft)" opacity=".10"/>'
    ]
    for tick in _ticks(low, high):
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="var(--line)"/><text x="{_LEFT - 5}" y="{y(tick) + 3.5:.1f}" '
            f'text-anchor="end">{tick:g}</text>'
        )
    for threshold in limits:
        for limit in (threshold.drifting, -threshold.drifting):
            if low <= limit <= high:
                parts.append(
                    f'<line x1="{_LEFT}" x2="{right}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" '
                    'stroke="var(--drifting)" stroke-dasharray="4 4" opacity=".7"/>'
                )
    for video in videos:
        for cut in video.events.get("cuts", []):
            parts.append(
                f'<line x1="{x(cut):.1f}" x2="{x(cut):.1f}" y1="{top}" y2="{floor}" '
                'stroke="var(--watch)" stroke-dasharray="1 3"/>'
            )
    for second in _ticks(0, seconds):
        parts.append(
            f'<text x="{x(second):.1f}" y="{_HEIGHT - 5}" text-anchor="middle">{second:g}</text>'
        )
    for kind, line in reversed(list(zip(("ours", "base"), lines, strict=False))):
        parts.append(f'<path class="{kind}" d="{_path(line, x, y)}"/>')
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _path(line: Sequence[float | None], x: object, y: object) -> str:
    assert callable(x)
    assert callable(y)
    points, pen = [], "M"
    for second, value in enumerate(line):
        if value is None:
            pen = "M"
            continue
        points.append(f"{pen}{x(second + 0.5):.1f} {y(value):.1f}")
        pen = "L"
    return "".join(points)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thresholds() -> str:
    rows = "".join(
        f"<tr><td>{t.component}</td><td>{t.metric}</td>"
        f'<td class="n">{_sign(t.metric)} {t.watch:g}</td>'
        f'<td class="n">{_sign(t.metric)} {t.drifting:g}</td>'
        f'<td class="soft">{escape(t.provenance)}</td></tr>'
        for t in THRESHOLDS
    )
    return (
        '<div class="card"><p>A video drifts when at least two of the four symptoms say so: one '
        "alone can be what the prompt asked for. A video that freezes has little other drift, so "
        "look at the motion too. Cuts break what the thresholds rest on.</p>"
        '<div class="scroll"><table><tr><th>symptom</th><th>metric</th><th class="n">watch</th>'
        f'<th class="n">drifting</th><th>found on</th></tr>{rows}</table></div></div>'
    )


def _sign(metric: str) -> str:
    return "&lt;" if METRICS[metric].better == "higher" else "&gt;"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
