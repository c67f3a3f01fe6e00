"""Batches of videos: the same noise in any batch, files of one kind, resumable and shared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tethercache import POLICIES, CausalVideoPipeline
from training import batches

CONFIG: dict[str, Any] = {
    "model": "tiny",
    "prompts": 3,
    "seeds": 2,
    "seconds": 1,
    "every": 4,
    "batch": 4,
    "policies": ["fifo", "sink:window=9"],
    "worker": 0,
    "workers": 1,
    "device": "cpu",
    "threads": 1,
    "report_only": False,
    "world": {"pan_probability": 0.0},
}


@pytest.fixture
def tiny() -> CausalVideoPipeline:
    return CausalVideoPipeline.from_pretrained("tiny")


def test_of_every_few_frames_one_is_kept_the_same_in_any_batch(tiny: CausalVideoPipeline):
    tiny.set_progress_bar_config(disable=True)
    policy = POLICIES.parse("fifo")
    few, scenes = batches.generate(tiny, policy, [(0, 0), (2, 1)], CONFIG)
    assert scenes == [batches.scenes(CONFIG)[i] for i in (0, 2)]
    (every,), _ = batches.generate(tiny, policy, [(2, 1)], CONFIG | {"every": 1})
    assert few.base is None or few.base.size == few.size
    assert few.dtype == np.uint8
    assert len(few[1]) == -(-len(every) // 4) > 3
    assert abs(few[1].astype(int) - every[::4]).max() <= 2
    assert abs(few[0].astype(int) - every[::4]).max() > 20


def test_a_run_makes_what_is_missing_of_its_share(tmp_path: Path):
    made: list[tuple[str, list[batches.Video]]] = []

    def note(
        pipe: Any, policy: str, part: list[batches.Video], config: dict[str, Any]
    ) -> dict[str, Any]:
        assert isinstance(pipe, CausalVideoPipeline)
        made.append((policy, part))
        return {"seeds": np.array([seed for _, seed in part])}

    config = CONFIG | {"out": str(tmp_path)}
    batches.run(config | {"report_only": True}, note)
    assert not made
    batches.run(config | {"worker": 1, "workers": 2}, note)
    assert made == [("fifo", [(2, 0), (2, 1)]), ("sink:window=9", [(2, 0), (2, 1)])]
    (tmp_path / "fifo" / "001.npz").unlink()
    (tmp_path / "fifo" / "001.77.partial.npz").write_bytes(b"PK")  # of another process
    made.clear()
    batches.run(config, note)
    assert [(policy, len(part)) for policy, part in made] == [
        ("fifo", 4),
        ("sink:window=9", 4),
        ("fifo", 2),
    ]
    assert [part["videos"].tolist() for part in batches.finished(tmp_path, "fifo")] == [
        [0, 1, 2, 3],
        [4, 5],
    ]
    assert batches.finished(tmp_path, "sink:window=9")[1]["seeds"].tolist() == [0, 1]
    assert batches.finished(tmp_path, "tethercache") == []


def test_a_folder_holds_videos_of_one_kind(tmp_path: Path, tiny: CausalVideoPipeline):
    config = {"seconds": 20, "seeds": 2, "every": 4, "batch": 4, "world": {"pan_probability": 0.0}}
    batches.declare(config, tmp_path, tiny)
    batches.declare(config | {"prompts": 7}, tmp_path, tiny)
    with pytest.raises(SystemExit, match=r"has videos of other seconds, every: --set out=ANOTHER"):
        batches.declare(config | {"seconds": 30, "every": 8}, tmp_path, tiny)
    tiny.transformer.proj_out.bias.data[0] += 1e-6
    with pytest.raises(SystemExit, match="other weights"):
        batches.declare(config, tmp_path, tiny)
