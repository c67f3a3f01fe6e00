from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tethercache.video import (
    DiskFullError,
    FrameHasher,
    Sidecar,
    SidecarError,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)

SIDECAR = Sidecar(
    prompt='a red ball, "rolling" über grass',
    model="tiny",
    model_hash="ab" * 32,
    policy="tethercache:sink=3,memory=14,recent=4,alpha=0.3,tau=0.5",
    seed=7,
    sample=1,
    width=128,
    height=96,
    fps=Fraction(16),
    num_frames=160,
    num_latent_frames=42,
    chunk_sizes=(3,) * 14,
    dtype="float32",
    device="cpu",
    chunk_hashes=("cd" * 32,) * 14,
    frames_hash="ef" * 32,
    wall_seconds=12.5,
    frames_per_second=12.8,
    settings={"num_inference_steps": 4, "flow_shift": 5.0, "prompts": [[0.0, "a ball"]]},
    command=("tethercache", "generate", "a red ball"),
)


@pytest.mark.parametrize("fps", [Fraction(16), Fraction(30000, 1001)])
def test_a_sidecar_is_read_as_it_was_written(tmp_path: Path, fps: Fraction) -> None:
    video = tmp_path / "a.video.mp4"
    sidecar = dataclasses.replace(SIDECAR, fps=fps)
    path = write_sidecar(video, sidecar)
    assert path == sidecar_path(video) == tmp_path / "a.video.json"
    assert read_sidecar(video) == read_sidecar(path) == sidecar
    assert [p.name for p in tmp_path.iterdir()] == ["a.video.json"]


def test_a_sidecar_is_plain_json_and_names_the_software(tmp_path: Path) -> None:
    record = json.loads(write_sidecar(tmp_path / "video.mp4", SIDECAR).read_text("utf-8"))
    assert record["schema_version"] == 1
    assert record["fps"] == 16
    assert record["prompt"] == SIDECAR.prompt
    assert {"tethercache", "torch", "diffusers", "python"} <= set(record["versions"])
    assert record["versions"]["torch"] == torch.__version__


def test_a_sidecar_replaces_an_older_one(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "video.mp4", SIDECAR)
    newer = dataclasses.replace(SIDECAR, seed=8)
    write_sidecar(tmp_path / "video.mp4", newer)
    assert read_sidecar(tmp_path / "video.mp4") == newer


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "has schema_version None, not 1"),
        ('{"schema_version": 2}', "has schema_version 2, not 1"),
        ('{"schema_version": 1, "sauce": 1}', "missing or unknown keys: .*prompt.*sauce"),
    ],
)
def test_a_damaged_sidecar_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "video.json").write_text(text)
    with pytest.raises(SidecarError, match=complaint):
        read_sidecar(tmp_path / "video.mp4")


def test_a_wrong_value_in_a_sidecar_is_refused(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path / "video.mp4", SIDECAR)
    path.write_text(path.read_text("utf-8").replace('"fps": 16', '"fps": "fast"'), "utf-8")
    with pytest.raises(SidecarError, match=r"has a wrong value: .*fast"):
        read_sidecar(path)


def test_a_full_disk_leaves_the_older_sidecar(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path / "video.mp4", SIDECAR)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_sidecar(path, dataclasses.replace(SIDECAR, seed=8))
        except DiskFullError as error:
            os._exit(0 if error.filename == str(path) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert read_sidecar(path) == SIDECAR
    assert [p.name for p in tmp_path.iterdir()] == ["video.json"]


def test_frames_are_hashed_by_chunk_and_in_total() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
    one, many = FrameHasher(), FrameHasher()
    one.update(frames)
    digests = [many.update(part) for part in (frames[:1], frames[1:5], frames[5:])]
    assert many.chunk_hashes == tuple(digests)
    assert digests[1] == hashlib.sha256(frames[1:5].tobytes()).hexdigest()
    expected = hashlib.sha256(frames.tobytes()).hexdigest()
    assert one.frames_hash == many.frames_hash == one.chunk_hashes[0] == expected


def test_the_layout_of_frames_in_memory_does_not_change_their_hash() -> None:
    frames = torch.arange(4 * 6 * 3 * 2, dtype=torch.uint8).view(2, 3, 4, 6)
    view = frames.permute(0, 2, 3, 1)
    assert FrameHasher().update(view) == FrameHasher().update(view.contiguous().numpy())
