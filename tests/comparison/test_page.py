"""The page of a comparison, and its videos side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tethercache as tc
from tests import browser
from tests.cli.test_generate import PROMPT
from tethercache.comparison import compare
from tethercache.comparison.page import mean_curve
from tethercache.comparison.sidebyside import BAR, compose
from tethercache.video import probe, read_frames, read_sidecar

PROMPTS = (PROMPT, "a blue ball <i>rolling</i> over sand")


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compared") / "out"
    request = tc.VideoRequest(PROMPT, latent_frames=6, model=str(model), device="cpu")
    compare(["fifo", "sink", "tethercache"], PROMPTS, place, request=request)
    return place


def test_the_page_has_every_policy_and_prompt_as_text(folder: Path) -> None:
    html = (folder / "index.html").read_text("utf-8")
    for name in ("fifo", "sink", "tethercache"):
        assert f">{name}</td>" in html
    assert "a blue ball &lt;i&gt;rolling&lt;/i&gt; over sand" in html
    assert "<i>rolling" not in html
    assert 'src="side-by-side/001.mp4#t=0.1"' in html
    assert "minus fifo" in html


def test_videos_stand_side_by_side(folder: Path) -> None:
    made = folder / "side-by-side" / "000.mp4"
    info = probe(made)
    alone = next(folder.glob("sink/000-*.mp4"))
    assert info.num_frames == probe(alone).num_frames == 21
    assert info.fps == probe(alone).fps
    assert (info.width, info.height) == (3 * 224, 224 + BAR)
    shown = next(iter(read_frames(made)))
    size = 16
    second = shown[BAR:, 224:448].reshape(size, 14, size, 14, 3).mean((1, 3))
    there = next(iter(read_frames(alone))).astype(float)
    assert np.abs(second - there).mean() < 12  # encoded twice


def test_what_is_there_is_not_made_again(folder: Path, model: Path) -> None:
    made = folder / "side-by-side" / "000.mp4"
    before = made.stat().st_mtime_ns
    request = tc.VideoRequest(PROMPT, latent_frames=6, model=str(model), device="cpu")
    compare(["fifo", "sink", "tethercache"], PROMPTS, folder, request=request)
    assert made.stat().st_mtime_ns == before
    compare(["fifo", "sink"], PROMPTS, folder, request=request)
    assert made.stat().st_mtime_ns > before
    assert probe(made).width == 2 * 224
    compare(["fifo", "sink", "tethercache"], PROMPTS, folder, request=request)
    assert read_sidecar(next(folder.glob("fifo/000-*.mp4"))).prompt == PROMPT


def test_many_and_large_images_fit() -> None:
    images = [np.full((480, 832, 3), 10 * i, np.uint8) for i in range(6)]
    made = compose(images, [f"policy {i}" for i in range(6)], 1.0)
    assert made.shape[1] <= 1920
    assert made.shape[0] % 2 == made.shape[1] % 2 == 0
    assert made.shape[0] > 2 * (BAR + 200)


def test_a_mean_of_curves_leaves_out_what_is_not_there() -> None:
    assert mean_curve([[1.0, None, 3.0], [3.0, None]]) == [2.0, None, 3.0]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_browser(folder: Path, width: int) -> None:
    with browser.chromium() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.goto((folder / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_function("document.querySelector('video').readyState >= 1")
        assert page.evaluate("document.querySelector('video').videoWidth") == 672
        page.close()
