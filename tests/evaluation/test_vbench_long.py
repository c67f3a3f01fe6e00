from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.evaluation.scenes import write
from tethercache.evaluation import vbench_long
from tethercache.evaluation.vbench_long import (
    DIMENSIONS,
    ClipScore,
    Run,
    aggregate,
    consistency,
    fuse,
    map_clip_to_clip,
    plan_clips,
    quality_drift,
    read_results,
    split_video,
)
from tethercache.evaluation.vbench_score import score_videos
from tethercache.evaluation.vbench_weights import WEIGHTS, missing_weights
from tethercache.video import probe, read_frames

GOLDEN = {
    "subject_consistency": 0.9626138878411369,
    "background_consistency": 0.9592233882189393,
    "aesthetic_quality": 0.629230591058731,
    "imaging_quality": 0.6406044196605682,
    "dynamic_degree": 0.7466666666666667,
    "motion_smoothness": 0.9715610445063592,
}


def test_a_real_run_is_aggregated_bit_for_bit(shared: Path) -> None:
    run = read_results(shared / "data/vbench_long/golden")
    made = aggregate(run)
    assert dict(made.scores) == GOLDEN
    assert run.problems == []
    assert made.quality is None
    assert made.total is None
    assert "temporal_flickering" in made.missing
    drift = quality_drift(run)["protocols"]["tethercache"]
    assert (round(drift["mean"], 2), round(drift["mean_absolute"], 2)) == (-1.88, 5.48)


def test_every_mapped_and_fused_score_of_a_real_run_is_exact(shared: Path) -> None:
    for path in vbench_long.find_results(shared / "data/vbench_long/golden"):
        for name, entry in json.loads(path.read_text()).items():
            for clip in entry[1] if name in vbench_long.FUSED else []:
                between = clip["clip2clip_score"]
                assert map_clip_to_clip(name, between) == clip["mapped_clip2clip_score"]
                assert fuse(name, clip["inclip_score"], between) == clip["video_results"]


@pytest.mark.parametrize(
    ("dimension", "similarity", "mapped"),
    [
        ("subject_consistency", 0.5, 0.932675),
        ("subject_consistency", 0.75, 0.973668),
        ("subject_consistency", 0.9, 0.98871),
        ("background_consistency", 0.5, 0.946058),
        ("background_consistency", 0.9, 0.971717),
    ],
)
def test_the_mapping_has_the_published_entries(
    dimension: str, similarity: float, mapped: float
) -> None:
    assert map_clip_to_clip(dimension, similarity) == pytest.approx(mapped, abs=5e-7)


def test_a_single_clip_keeps_its_own_consistency() -> None:
    assert fuse("subject_consistency", 0.9, 0.0) == 0.9


def complete(score: float = 0.5) -> dict[str, list[ClipScore]]:
    """Every dimension, with one clip that scores the same everywhere."""
    return {
        name: [
            ClipScore(
                "a",
                0,
                100 * score if name == "imaging_quality" else score,
                0.0 if name in vbench_long.FUSED else None,
            )
        ]
        for name in DIMENSIONS
    }


def test_totals_equal_a_hand_example() -> None:
    made = aggregate(Run(complete()))
    # norms of 0.5, by hand from VBench's minimum and maximum
    quality = (
        (0.5 - 0.1462) / 0.8538
        + (0.5 - 0.2615) / 0.7385
        + (0.5 - 0.6293) / 0.3707
        + (0.5 - 0.706) / 0.2915
        + 0.5 * 0.5
        + 0.5
        + 0.5
    ) / 6.5
    semantic = (5 * 0.5 + 0.5 / 0.8222 + (0.5 - 0.0009) / 0.2846 + 2 * 0.5 / 0.364) / 9
    assert made.quality == pytest.approx(quality, abs=1e-12)
    assert made.semantic == pytest.approx(semantic, abs=1e-12)
    assert made.total == pytest.approx((4 * quality + semantic) / 5, abs=1e-12)
    assert not made.is_partial


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_missing_dimension_is_never_zero(name: str) -> None:
    clips = complete()
    del clips[name]
    made = aggregate(Run(clips))
    assert name not in made.scores
    assert made.missing == {name: "not scored"}
    assert made.total is None
    is_quality = DIMENSIONS[name].group == "quality"
    assert (made.quality is None) == is_quality
    assert (made.semantic is None) != is_quality


def test_consistency_inside_clips_alone_is_no_fused_consistency() -> None:
    clips = complete()
    clips["subject_consistency"] = [ClipScore("a", 0, 0.9)]
    made = aggregate(Run(clips))
    assert "inside clips only" in made.missing["subject_consistency"]
    assert made.quality is None


@pytest.mark.parametrize(
    ("frames", "fps", "seconds", "count", "last"),
    [
        (957, 16, 2, 30, range(925, 957)),
        (3837, 16, 2, 120, range(3805, 3837)),
        (957, 16, 10, 6, range(797, 957)),
        (64, 16, 2, 2, range(32, 64)),
        (20, 16, 2, 1, range(20)),
        (90, 29.97, 2, 2, range(32, 90)),
    ],
)
def test_clips_are_whole_and_the_last_one_comes_from_the_end(
    frames: int, fps: float, seconds: int, count: int, last: range
) -> None:
    clips = plan_clips(frames, fps, seconds)
    assert len(clips) == count
    assert clips[-1] == last
    assert set().union(*clips) == set(range(frames))


def test_a_video_is_split_into_the_planned_frames(tmp_path: Path) -> None:
    video = write(tmp_path / "a cat-0.mp4", seconds=5)
    clips = split_video(video, tmp_path / "clips")
    assert [path.name for path in clips] == [f"a cat-0_{i:03d}.mp4" for i in range(3)]
    assert [probe(path).num_frames for path in clips] == [32] * 3
    whole = list(read_frames(video))
    for path, start in zip(clips, (0, 32, 48), strict=True):
        for frame, original in zip(read_frames(path), whole[start:], strict=False):
            assert np.abs(frame.astype(int) - original).mean() < 4
    short = write(tmp_path / "short.mp4", seconds=1)
    assert [p.name for p in split_video(short, tmp_path / "clips")] == ["short_full.mp4"]


def test_consistency_is_the_mean_of_neighbours_and_first() -> None:
    features = [[1, 0], [0, 1], [0, 2], [-1, 0]]
    # (0 + 0)/2, (1 + 0)/2, (0 + max(0, -1))/2
    assert consistency(features) == pytest.approx((0 + 0.5 + 0) / 3)
    assert consistency([[1, 0]]) == 0.0


def results_file(folder: Path, name: str, content: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_eval_results.json").write_text(json.dumps(content))


def test_damaged_and_foreign_result_files_are_named(tmp_path: Path) -> None:
    good = [{"video_path": "x/a-0_000.mp4", "video_results": 0.5}]
    results_file(tmp_path, "1", {"motion_smoothness": [0.5, good]})
    results_file(tmp_path, "2", {"charm": [0.5, good]})
    results_file(tmp_path, "3", {"dynamic_degree": [0.5]})
    results_file(tmp_path, "4", {"aesthetic_quality": [0.9, good]})
    (tmp_path / "5_eval_results.json").write_text("{")
    run = read_results(tmp_path)
    assert set(run.clips) == {"motion_smoothness", "aesthetic_quality"}
    problems = " / ".join(run.problems)
    for expected in ("unknown dimension `charm`", "no scores of clips", "the file says", "5_eval"):
        assert expected in problems
    with pytest.raises(ValueError, match="no \\*_eval_results"):
        read_results(tmp_path / "nowhere")


def test_missing_weights_are_listed_with_their_origin(tmp_path: Path) -> None:
    lacking = missing_weights(tmp_path)
    assert set(lacking) == set(WEIGHTS) - {"temporal_flickering"}
    assert all(weight.origin for weights in lacking.values() for weight in weights)
    file = tmp_path / WEIGHTS["motion_smoothness"][0].path
    file.parent.mkdir()
    file.touch()
    assert "motion_smoothness" not in missing_weights(tmp_path)


class FakeVBench:
    """Writes what VBench writes, so that the way to it and back can be tested."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, device: object, full_info: str, folder: str) -> None:
        self.folder = Path(folder)

    def evaluate(self, *, videos_path: str, name: str, **options: Any) -> None:
        self.calls.append(name)
        clips = sorted(Path(videos_path).iterdir())
        scale = 100 if name == "imaging_quality" else 1
        entries = [{"video_path": str(p), "video_results": 0.8 * scale} for p in clips]
        results_file(self.folder, name, {name: [0.8, entries]})


@pytest.fixture
def _vbench(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FakeVBench` is installed."""
    module = ModuleType("vbench")
    module.VBench = FakeVBench  # type: ignore[attr-defined]
    module.__spec__ = object()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "vbench", module)
    monkeypatch.setenv("VBENCH_CACHE_DIR", "")
    monkeypatch.setenv("TORCH_HOME", "")


@pytest.mark.usefixtures("_vbench")
def test_scoring_skips_what_has_no_weights_and_fuses_the_rest(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    for name in ("subject_consistency", "imaging_quality"):
        for weight in WEIGHTS[name]:
            if weight.purpose == "inside clips":
                (weights / weight.path).parent.mkdir(parents=True, exist_ok=True)
                (weights / weight.path).touch()
    video = write(tmp_path / "a.mp4", seconds=5)
    split_video(write(tmp_path / "old.mp4", seconds=3), tmp_path / "work/clips")
    run = score_videos([video, tmp_path / "gone.mp4"], weights, tmp_path / "work")
    assert set(aggregate(run).scores) == {"temporal_flickering", "imaging_quality"}
    assert aggregate(run).scores["imaging_quality"] == pytest.approx(0.8)
    missing = aggregate(run).missing
    assert "dinov2_vitb14_pretrain.pth" in missing["subject_consistency"]
    assert "amt-s.pth" in missing["motion_smoothness"]
    assert "VBench itself" in missing["scene"]
    assert "gone.mp4" in run.problems[0]

    def embedder(folder: Path, device: str) -> Any:
        return lambda images: [[1.0, 0.0]] * len(images)

    calls = len(FakeVBench.calls)
    run = score_videos(
        [video], weights, tmp_path / "work", embedders={"subject_consistency": embedder}
    )
    assert len(FakeVBench.calls) == calls  # finished dimensions are read
    expected = fuse("subject_consistency", 0.8, 1.0)
    assert aggregate(run).scores["subject_consistency"] == pytest.approx(expected)
    assert {clip.video for clip in run.clips["imaging_quality"]} == {"a"}


@pytest.mark.usefixtures("_vbench")
def test_another_video_of_the_same_name_is_scored_anew(tmp_path: Path) -> None:
    def scored(path: Path) -> int:
        before = len(FakeVBench.calls)
        score_videos([path], tmp_path, tmp_path / "work")
        return len(FakeVBench.calls) - before

    video = write(tmp_path / "a.mp4", seconds=1)
    assert scored(video) == 1  # temporal_flickering, which needs no weights
    assert scored(video) == 0
    video.unlink()
    assert scored(write(video, "flicker", seconds=1)) == 1
    assert scored(video) == 0
    (tmp_path / "work/temporal_flickering_videos.json").write_text("{")
    assert scored(video) == 1


def test_without_the_package_every_dimension_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tethercache.evaluation.vbench_score.find_spec", lambda name: None)
    run = score_videos([write(tmp_path / "a.mp4", seconds=1)], tmp_path, tmp_path / "work")
    assert run.clips == {}
    assert "`vbench` is not installed" in run.absent["temporal_flickering"]
