"""The page of a trace: all of it inside, nothing from outside, and the numbers are the trace's."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.browser import chromium, opened
from tests.golden.runner import repeat
from tests.golden.test_golden import FOLDER
from tests.trace.runs import follow, trace
from tethercache.cli.app import run
from tethercache.rollout.plan import first_frame
from tethercache.trace import Tracer, memory_of
from tethercache.trace.file import TraceWriter, read_trace, trace_path
from tethercache.trace.find import Found, find_trace
from tethercache.trace.page import frames_in, page, page_of
from tethercache.trace.pictures import COLUMNS, sheets
from tethercache.video import VideoWriter

HEADER = {
    "prompt": "a red ball",
    "policy": "tethercache",
    "budget": 9,
    "seed": 3,
    "fps": 16.0,
    "frames_per_latent": 4,
}
SMALL = "tethercache:sink=1,memory=4,recent=4"


def inside(html: str) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(r'id="data">([^<]*)<', html)
    assert found is not None
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return data


def coloured(latent: int) -> list[int]:
    """The colour of a latent frame in test videos, far from that of its neighbours."""
    return [40 + 60 * (latent % 4), 40 + 60 * (latent // 4 % 4), 40 + 60 * (latent // 16 % 4)]


def video_of(path: Path, latents: int, cut: int = 0) -> Path:
    """A video whose latent frames have their colours; `cut` frames are missing at its end."""
    each = [coloured(-(-n // 4)) for n in range(4 * latents - 3 - cut)]
    frames = np.broadcast_to(np.array(each, np.uint8)[:, None, None], (len(each), 48, 64, 3)).copy()
    with VideoWriter(path, fps=Fraction(16), width=64, height=48) as writer:
        writer.write(frames)
    return path


def test_the_page_holds_the_trace_and_what_memory_of_says_of_it() -> None:
    chunks = trace(SMALL, 24)
    data = inside(page(HEADER, chunks, name="a.mp4"))
    assert data["header"] == HEADER
    for found, chunk in zip(data["chunks"], chunks, strict=True):
        assert found.pop("memory") == memory_of(chunk)
        assert found == chunk


def test_nothing_from_outside_is_html_and_nothing_is_fetched() -> None:
    hostile = "</script><script>alert(1)</script>\x1b[2J"
    header = {**HEADER, "prompt": hostile, "policy": hostile}
    html = page(header, trace(SMALL, 6), name=hostile)
    assert html.count("<script") == 2
    assert "\x1b" not in html
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", html)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\((?!\"data:)", html)
    (script,) = re.findall(r"<script>(.*)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; base-uri 'none'" in html
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    with pytest.raises(ValueError, match="without chunks"):
        page(HEADER, [], name="a.mp4")


@pytest.mark.parametrize("cut", [0, 2, 3])
def test_pictures_show_the_frames_that_they_are_of(tmp_path: Path, cut: int) -> None:
    video = video_of(tmp_path / "a.mp4", 20, cut)
    wanted = [0, 1, 2, 5, 13, 14, 19, 20]
    found = sheets(video, wanted)
    assert found.frames == tuple(wanted[:-1])
    assert (found.width, found.height) == (64, 48)
    (jpeg,) = found.jpegs
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        sheet = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert sheet.shape == (48, 64 * COLUMNS, 3)
    for i, latent in enumerate(found.frames):
        shown = sheet[8:40, i * 64 + 8 : i * 64 + 56].reshape(-1, 3).mean(axis=0)
        assert np.abs(shown - coloured(latent)).max() < 12


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    """A video of 8 chunks and its trace."""
    video, chunks = video_of(tmp_path / "a.mp4", 24), trace(SMALL, 24)
    writer = TraceWriter(trace_path(video), HEADER)
    for chunk in chunks:
        writer.write(chunk)
    writer.close()
    return video


def test_a_part_of_a_trace_has_pictures_of_all_that_it_shows(traced: Path) -> None:
    html, notes = page_of(find_trace(traced), 3.0, 4.0)
    data = inside(html)
    shown = [(first_frame(c["start"]) / 16, first_frame(c["stop"]) / 16) for c in data["chunks"]]
    assert shown[0][0] <= 3.0 < shown[0][1]
    assert shown[-1][0] < 4.0 <= shown[-1][1]
    assert data["pictures"]["frames"] == frames_in(data["chunks"])
    assert data["pictures"]["frames"][0] == 0
    assert notes == []
    with pytest.raises(ValueError, match="no chunk"):
        page_of(find_trace(traced), 100.0)


def test_a_trace_is_found_by_its_video_or_by_itself(traced: Path) -> None:
    found = Found(trace_path(traced), traced)
    for name in ("a.mp4", "a.trace.jsonl.gz"):
        assert find_trace(traced.with_name(name)) == found
    partial = trace_path(traced).rename(traced.with_name("b.partial.trace.jsonl.gz"))
    assert find_trace(traced.with_name("b.mp4")) == Found(partial, None)
    _, notes = page_of(find_trace(partial))
    assert "no pictures" in notes[0]
    with pytest.raises(FileNotFoundError, match="--trace"):
        find_trace(traced)


def test_the_command_line_traces_shows_and_draws(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["a red ball", "--model", str(model), "--latent-frames", "18", "--policy", SMALL]
    assert run(["generate", *asked, "--trace", "-o", "a.mp4"]) == 0
    capsys.readouterr()
    assert run(["trace", "show", "a.mp4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    chunks = list(read_trace("a.trace.jsonl.gz")[1])
    assert [each["memory"] for each in said["chunks"]] == [memory_of(chunk) for chunk in chunks]
    assert run(["trace", "show", "a.mp4"]) == 0
    assert capsys.readouterr().out.splitlines()[6].split()[:5] == ["5", "3.56", "1", "6", "4"]
    assert run(["trace", "show", "a.mp4", "--chunk", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert run(["trace", "view", "a.mp4"]) == 0
    data = inside(Path("a.trace.html").read_text("utf-8"))
    assert data["pictures"]["frames"] == [*range(18)]
    capsys.readouterr()
    for words, message in (
        (["view", "a.mp4"], "overwrite"),
        (["view", "b.mp4"], "no trace"),
        (["show", "a.mp4", "--from", "3", "--to", "2"], "--to (2)"),
        (["show", "a.mp4", "--chunk", "9"], "no chunk"),
    ):
        assert run(["trace", *words]) != 0
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_pictures_of_another_video_are_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", "0"), ("b", "1")):
        asked = ["a red ball", "--model", str(model), "--latent-frames", "6", "--seed", seed]
        assert run(["generate", *asked, "--trace", "-o", f"{name}.mp4"]) == 0
    Path("b.trace.jsonl.gz").replace("a.trace.jsonl.gz")
    html, notes = page_of(find_trace("a.mp4"))
    assert inside(html)["pictures"]["frames"] == []
    assert "another video" in notes[0]


# In a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def golden() -> tuple[list[dict[str, Any]], Any]:
    with repeat(FOLDER, FOLDER / "run_tc_main.safetensors", "float64") as repeated:
        tracer = Tracer()
        tracer.watch(repeated.session)
        return follow(repeated.rollout, tracer), repeated.golden


@pytest.mark.browser
def test_the_page_shows_the_decisions_of_the_official_code(
    browser: Any, golden: Any, tmp_path: Path
) -> None:
    chunks, theirs = golden
    path = tmp_path / "golden.html"
    path.write_text(page({**HEADER, "budget": 21}, chunks, name="golden"), "utf-8")
    event, layer = len(theirs["grab_chunk"]) - 1, len(chunks[0]["layers"]) - 1
    order = theirs["grab_cand_idx"][event, layer].argsort()
    expected = [
        (str(int(frame)), "stays" if keep else "goes", f"{mass:.4g}", f"{diversity:.4g}")
        for frame, keep, mass, diversity in zip(
            *(theirs[f"grab_{n}"][event, layer][order].tolist() for n in _COLUMNS), strict=True
        )
    ]
    with opened(browser, path) as shown:
        shown.wait_for_selector("html[data-ready]")
        shown.select_option("#layer", str(layer))
        shown.locator("#chunk").fill(str(int(theirs["grab_chunk"][event])))
        rows = shown.locator("#decision tbody tr")
        found = [
            (
                str(row.get_attribute("data-frame")),
                row.locator("td").nth(1).inner_text(),
                row.locator("td").nth(3).inner_text(),
                row.locator("td").nth(4).inner_text(),
            )
            for row in rows.all()
        ]
        assert [(row[0], row[1]) for row in found] == [(row[0], row[1]) for row in expected]
        for ours, official in zip(found, expected, strict=True):
            assert [float(x) for x in ours[2:]] == pytest.approx(
                [float(x) for x in official[2:]], rel=2e-3
            )
        memory = shown.locator(".group.memory .thumb").all()
        frames = [int(str(each.get_attribute("data-frame"))) for each in memory]
        before = theirs["mem_idx"][int(theirs["grab_chunk"][event]) - 1, layer]
        assert frames == sorted(before.tolist())


_COLUMNS = ("cand_idx", "keep", "mass", "div")


@pytest.mark.browser
@pytest.mark.parametrize(
    "width",
    [pytest.param(390, marks=pytest.mark.slow), 1280, pytest.param(1920, marks=pytest.mark.slow)],
)
def test_it_fits_every_width_and_is_used_by_keys_alone(
    browser: Any, traced: Path, width: int
) -> None:
    path = traced.with_name("a.html")
    path.write_text(page_of(find_trace(traced))[0], "utf-8")
    scheme = "dark" if width == 1280 else "light"
    size = {"width": width, "height": 900}
    with opened(browser, path, viewport=size, color_scheme=scheme) as shown:
        shown.wait_for_selector("html[data-ready]")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        for key, chunk in (("End", 7), ("ArrowLeft", 6), ("Shift+ArrowLeft", 0), ("ArrowRight", 1)):
            shown.keyboard.press(key)
            assert shown.locator("#where").inner_text().startswith(f"chunk {chunk},")
        shown.keyboard.press("ArrowDown")
        assert shown.locator("#layer").input_value() == "0"
        shown.keyboard.press("ArrowUp")
        assert shown.locator("#layer").input_value() == "-1"
        shown.keyboard.press("End")
        first = shown.locator(".group.memory .thumb").first
        first.focus()
        shown.keyboard.press("Enter")
        frame = first.get_attribute("data-frame")
        assert shown.locator("#frame-title").inner_text().startswith(f"The life of frame {frame},")
        assert shown.evaluate("document.activeElement.dataset.frame") == frame
        shown.evaluate("document.activeElement.blur()")
        shown.keyboard.press("Home")
        shown.keyboard.press("Space")
        assert shown.locator("#play").get_attribute("aria-pressed") == "true"
        shown.wait_for_selector("#play[aria-pressed=false]")
        assert shown.locator("#where").inner_text().startswith("chunk 7,")
        unnamed = shown.evaluate(_UNNAMED)
        assert unnamed == []


_UNNAMED = """() => [...document.querySelectorAll("button, input, select, [role=img]")]
  .filter((e) => !(e.innerText || e.getAttribute("aria-label") || e.labels?.length))
  .map((e) => e.outerHTML)"""


@pytest.mark.browser
def test_marks_and_pictures_are_seen(browser: Any, tmp_path: Path) -> None:
    video, chunks = video_of(tmp_path / "a.mp4", 18), trace("memrope:sink=1,window=9", 18)
    pictures = sheets(video, frames_in(chunks))
    path = tmp_path / "a.html"
    path.write_text(page(HEADER, chunks, name="a.mp4", pictures=pictures), "utf-8")
    with opened(browser, path) as shown:
        shown.wait_for_selector("html[data-ready]")
        shown.keyboard.press("End")
        merged = shown.locator(".group.memory .thumb", has=shown.locator(".badges .merged")).all()
        assert [each.get_attribute("data-frame") for each in merged] == ["1", "2"]
        assert shown.locator("#columns.quiet").count() == 1
        picture = merged[0].locator(".picture").screenshot()
        with av.open(io.BytesIO(picture), format="png_pipe") as container:
            drawn = next(container.decode(video=0)).to_ndarray(format="rgb24")
        middle = drawn[len(drawn) // 4, drawn.shape[1] // 2]
        assert np.abs(middle.astype(int) - coloured(1)).max() < 14
