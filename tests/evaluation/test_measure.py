"""Files of all kinds: evaluated, or skipped with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.evaluation import files
from tests.evaluation.scenes import FPS, write
from tethercache.evaluation.measure import SkippedVideoError, measure_video
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import VideoResult, rounded


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: files.encode(path, count=1), "has 1 frame"),
        (lambda path: files.encode(path, count=3), "has 3 frames"),
        (files.sound, "contains no video"),
        (files.truncated, "is truncated"),
        (files.empty, "is empty"),
        (files.text, "cannot be read as a video"),
        (lambda path: path, "no such video|No such file"),
    ],
    ids=["one frame", "three frames", "sound only", "truncated", "empty", "text", "missing"],
)
def test_a_file_that_cannot_be_evaluated_says_why(tmp_path: Path, make, reason: str) -> None:
    with pytest.raises(SkippedVideoError, match=reason):
        measure_video(make(tmp_path / "video.mp4"))


@pytest.mark.parametrize(
    "options",
    [
        {"pixel_format": "yuv444p", "crop": (63, 95)},
        {"pixel_format": "yuv420p10le"},
    ],
    ids=["odd size", "10 bit"],
)
def test_an_unusual_format_is_converted(tmp_path: Path, options: dict[str, object]) -> None:
    usual = measure_video(files.encode(tmp_path / "usual.mp4"))
    path = files.encode(tmp_path / "video.mp4", **options)  # type: ignore[arg-type]
    found = measure_video(path)
    assert found.verdict == usual.verdict
    assert found.metrics["motion_level"] == pytest.approx(usual.metrics["motion_level"], rel=0.2)
    assert found.video["pixel_format"] == options["pixel_format"]


def test_of_a_variable_rate_everything_but_motion_is_measured(tmp_path: Path) -> None:
    result = measure_video(files.encode(tmp_path / "video.mp4", variable=True))
    assert any("variable frame rate" in text for text in result.warnings)
    for name in ("colour_difference", "chroma", "log_sharpness"):
        assert result.metrics[name] == pytest.approx(0, abs=3)
    for name, metric in Options().metrics().items():
        assert (result.metrics[name] is None) == (metric.needs_rate), name


@pytest.mark.parametrize("dropped", [(20,), (39,), (7, 23)], ids=["one", "the last but one", "two"])
def test_a_dropped_frame_is_noted_and_changes_nothing(
    tmp_path: Path, dropped: tuple[int, ...]
) -> None:
    whole = measure_video(files.encode(tmp_path / "whole.mp4", count=41))
    found = measure_video(files.encode(tmp_path / "video.mp4", count=41, dropped=dropped))
    assert found.video["frames"] == 41 - len(dropped)
    assert found.video["fps"] == pytest.approx(FPS, rel=0.06)
    assert any("behind the one before but up to 0.125" in text for text in found.warnings)
    assert found.verdict == whole.verdict
    assert found.metrics["motion_level"] == pytest.approx(whole.metrics["motion_level"], rel=0.1)


def test_a_file_cut_without_encoding_is_what_players_show(tmp_path: Path) -> None:
    whole = files.encode(tmp_path / "whole.mp4", count=80)
    cut = files.remux(whole, tmp_path / "cut.mp4", begin=1.5)
    result = measure_video(cut)
    assert result.video["seconds"] == pytest.approx(80 / FPS - 1.5, abs=0.13)
    assert result.verdict == "stable"


def test_a_short_video_is_evaluated_with_a_warning(tmp_path: Path) -> None:
    result = measure_video(files.encode(tmp_path / "video.mp4"))
    assert any("is only 2.5 s long" in text for text in result.warnings)
    assert result.verdict == "stable"
    assert result.metrics["motion_level"] == pytest.approx(2**0.5, rel=0.3)


def test_an_unfinished_video_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", seconds=1)
    partial = path.rename(tmp_path / "video.partial.mp4")
    with pytest.raises(SkippedVideoError, match="is unfinished"):
        measure_video(partial)


def test_every_nth_frame_changes_little_and_too_few_are_refused(scenes: dict[str, Path]) -> None:
    dense = measure_video(scenes["saturation"], Options(every=1)).metrics
    sparse = measure_video(scenes["saturation"], Options(every=8)).metrics
    assert sparse["chroma"] == pytest.approx(dense["chroma"], rel=0.05)
    assert sparse["cuts"] == dense["cuts"]
    with pytest.raises(SkippedVideoError, match="too short"):
        measure_video(scenes["none"], Options(every=1000))
    with pytest.raises(ValueError, match=r"`every` \(0\)"):
        Options(every=0)


def test_results_are_json(results: dict[str, VideoResult]) -> None:
    for result in results.values():
        text = json.dumps(rounded(vars(result)), allow_nan=False)
        assert json.loads(text)["name"] == result.name


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    process = psutil.Process()
    short, long = write(tmp_path / "a.mp4", seconds=4), write(tmp_path / "b.mp4", seconds=120)
    measure_video(short)
    before = process.memory_info().rss
    measure_video(long)
    # 1,920 frames of 18 kB would be 35 MB
    assert process.memory_info().rss - before < 12e6


@pytest.mark.slow
def test_each_drifting_video_is_worse_than_its_twin_in_at_least_four_ways(shared: Path) -> None:
    folder = shared / "data/videos"
    options = Options(every=8)
    for path in sorted((folder / "self_forcing").iterdir())[:1]:
        worse = measure_video(path, options)
        twin = measure_video(folder / "tethercache" / path.name, options)
        assert worse.verdict == "drifting"
        assert twin.verdict != "drifting"
        lower = ("colour_difference", "chroma", "colourfulness", "log_sharpness")
        count = sum((worse.metrics.get(n) or 0) > (twin.metrics.get(n) or 0) for n in lower)
        count += (worse.metrics["motion_retention"] or 0) < (twin.metrics["motion_retention"] or 0)
        assert count >= 4
