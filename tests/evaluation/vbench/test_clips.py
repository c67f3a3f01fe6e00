from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.scenes import write
from tethercache.evaluation.vbench.clips import plan_clips, split_video
from tethercache.video import probe, read_frames


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
