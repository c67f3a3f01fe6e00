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
    command_line,
    read_sidecar,
    shareable,
    sidecar_path,
    write_sidecar,
)
from tethercache.video import sidecar as sidecar_module

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
    assert record["schema_version"] == 2
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
        ("[]", "it is no object of JSON"),
        ('{"schema_version": 3}', "has schema_version 3, not 2"),
        ('{"schema_version": 1, "sauce": 1}', "missing or unknown keys: .*prompt.*"),
        ('{"schema_version": true}', "has schema_version True, not 2"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
        ('{"schema_version": 1' + "0" * 5000 + "}", "is not JSON|has schema_version"),
    ],
)
def test_a_damaged_sidecar_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "video.json").write_text(text)
    with pytest.raises(SidecarError, match=complaint):
        read_sidecar(tmp_path / "video.mp4")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("fps", fps) for fps in ("fast", "1/0", "0/1", 0, -1, 16.5, "1e99", True, None, [16])),
        *(("fps", fps) for fps in (10**9, float("inf"), "9" * 99, "-1/2", "1/2/3", "\uff11/1")),
        *(("seed", seed) for seed in ("7", 7.0, True, None)),
        *(("sample", sample) for sample in (-1, 1.5, 1 << 70)),
        *(("width", width) for width in (0, "128", [])),
        *(("num_frames", number) for number in (-1, float("nan"), {})),
        *(("wall_seconds", seconds) for seconds in (-1, float("inf"), float("nan"), "1", True)),
        *(("chunk_sizes", sizes) for sizes in (3, "333", [3, "3"], [True], [[3]], {"3": 3})),
        *(("chunk_hashes", hashes) for hashes in ("cd", [1], [None])),
        *(("command", command) for command in ("tethercache", [1], None)),
        *(("prompt", text) for text in (1, None, ["a ball"])),
        ("settings", []),
        ("request", None),
        ("versions", "1.0"),
        ("frames_hash", None),
    ],
)
def test_a_wrong_value_in_a_sidecar_is_refused_by_name(
    tmp_path: Path, key: str, value: object
) -> None:
    path = write_sidecar(tmp_path / "video.mp4", SIDECAR)
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | {key: value}))
    with pytest.raises(SidecarError, match=rf"has a wrong value: `{key}` must be") as caught:
        read_sidecar(path)
    assert len(str(caught.value).replace(str(path), "")) < 250


def test_a_sidecar_larger_than_any_record_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar_module, "MAX_BYTES", 1 << 20)
    (tmp_path / "video.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(SidecarError, match="is no record: it is larger than 1 MB"):
        read_sidecar(tmp_path / "video.mp4")


def test_a_pipe_in_the_place_of_a_sidecar_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "video.json")
    with pytest.raises(SidecarError, match="it is no ordinary file"):
        read_sidecar(tmp_path / "video.mp4")


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.mp4")
    sidecar = dataclasses.replace(SIDECAR, command=("tethercache", "-o", odd))
    path = write_sidecar(tmp_path / "video.mp4", sidecar)
    assert "über" in path.read_text("utf-8")
    assert read_sidecar(path) == sidecar


def test_a_command_line_is_recorded_without_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prompt = "/a prompt that looks like a path"
    given = ["/usr/bin/tethercache", "generate", prompt, "-o", f"{tmp_path}/videos/a.mp4"]
    given += ["--model", f"{tmp_path}/here/m", "--lora", "/home/me/film.safetensors:0.5"]
    given += ["--prefix=/home/me/clip.mp4", "../b", "-s"]
    assert command_line(given, keep=prompt) == (
        "tethercache",
        "generate",
        prompt,
        "-o",
        "../videos/a.mp4",
        "--model",
        "m",
        "--lora",
        "film.safetensors:0.5",
        "--prefix=clip.mp4",
        "../b",
        "-s",
    )
    assert shareable(tmp_path / "models/toy", tmp_path / "videos") == "../models/toy"
    assert shareable("m", tmp_path) == "here/m"


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
    hasher = FrameHasher()
    assert hasher.frames_hash == ""
    parts = (frames[:1], frames[1:5], frames[5:])
    digests = [hasher.update(part) for part in parts]
    assert hasher.chunk_hashes == tuple(digests)
    assert digests == [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
    total = ""
    for digest in digests:
        total = hashlib.sha256((total + digest).encode()).hexdigest()
    assert hasher.frames_hash == total


def test_another_hasher_goes_on_from_a_state() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 4, 6, 3), dtype=np.uint8)
    one, other = FrameHasher(), FrameHasher()
    one.update(frames[:4])
    other.update(frames)  # forgotten
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for hasher in (one, other):
        hasher.update(frames[4:])
    assert (other.chunk_hashes, other.frames_hash) == (one.chunk_hashes, one.frames_hash)


def test_a_record_of_version_1_is_compared_with_a_new_one(tmp_path: Path) -> None:
    """There, the hash in total was one of all frames in a row."""
    frames, hasher = np.zeros((9, 4, 6, 3), dtype=np.uint8), FrameHasher()
    for part in (frames[:5], frames[5:]):
        hasher.update(part)
    new = dataclasses.replace(
        SIDECAR, chunk_hashes=hasher.chunk_hashes, frames_hash=hasher.frames_hash
    )
    old = json.loads(sidecar_module.dump_sidecar(new)) | {
        "schema_version": 1,
        "frames_hash": hashlib.sha256(frames.tobytes()).hexdigest(),
    }
    del old["request"]
    for frames_hash, expected in ((old["frames_hash"], new.frames_hash), ("", "")):
        (tmp_path / "video.json").write_text(json.dumps(old | {"frames_hash": frames_hash}))
        assert read_sidecar(tmp_path / "video.mp4").frames_hash == expected


def test_the_layout_of_frames_in_memory_does_not_change_their_hash() -> None:
    frames = torch.arange(4 * 6 * 3 * 2, dtype=torch.uint8).view(2, 3, 4, 6)
    view = frames.permute(0, 2, 3, 1)
    assert FrameHasher().update(view) == FrameHasher().update(view.contiguous().numpy())
