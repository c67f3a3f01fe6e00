from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.evaluation.scenes import write
from tethercache.evaluation.inputs import Input, find_inputs
from tethercache.evaluation.vbench.aggregate import aggregate, fuse
from tethercache.evaluation.vbench.clips import split_video
from tethercache.evaluation.vbench.score import score_videos
from tethercache.evaluation.vbench.weights import WEIGHTS, missing_weights


def results_file(folder: Path, name: str, content: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_eval_results.json").write_text(json.dumps(content))


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
    gone = Input(tmp_path / "gone.mp4", "gone.mp4", "gone.mp4")
    run = score_videos([*find_inputs([video]), gone], weights, tmp_path / "work")
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
        find_inputs([video]),
        weights,
        tmp_path / "work",
        embedders={"subject_consistency": embedder},
    )
    assert len(FakeVBench.calls) == calls  # finished dimensions are read
    expected = fuse("subject_consistency", 0.8, 1.0)
    assert aggregate(run).scores["subject_consistency"] == pytest.approx(expected)
    assert {clip.video for clip in run.clips["imaging_quality"]} == {"a"}


@pytest.mark.usefixtures("_vbench")
def test_another_video_of_the_same_name_is_scored_anew(tmp_path: Path) -> None:
    def scored(path: Path) -> int:
        before = len(FakeVBench.calls)
        score_videos(find_inputs([path]), tmp_path, tmp_path / "work")
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
    monkeypatch.setattr("tethercache.evaluation.vbench.score.find_spec", lambda name: None)
    run = score_videos(
        find_inputs([write(tmp_path / "a.mp4", seconds=1)]), tmp_path, tmp_path / "work"
    )
    assert run.clips == {}
    assert "`vbench` is not installed" in run.absent["temporal_flickering"]
