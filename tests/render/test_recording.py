from __future__ import annotations

import dataclasses
import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.video.test_sidecar import SIDECAR
from tests.video.test_writer import HEIGHT, WIDTH, FullDisk, assert_shows, in_child, make_frames
from tethercache.render import Recording, check_recording, complete, unnamed
from tethercache.render import recording as recording_module
from tethercache.video import (
    DiskFullError,
    FrameHasher,
    Sidecar,
    read_sidecar,
)
from tethercache.video import writer as writer_module

REQUEST = Sidecar(
    prompt="a red ball",
    model="tiny",
    model_hash="ab" * 32,
    policy="fifo:recent=21",
    seed=7,
    sample=0,
    width=WIDTH,
    height=HEIGHT,
    fps=SIDECAR.fps,
    num_frames=12,
    num_latent_frames=4,
    chunk_sizes=(2, 2),
    dtype="float32",
    device="cpu",
    settings={"threads": 1},
    command=("tethercache", "generate", "a red ball"),
)
FRAMES = make_frames(12)


def record(path: Path, **options: bool) -> Recording:
    """A recording with all its frames, not closed yet."""
    recording = Recording(path, REQUEST, **options)
    recording.write(FRAMES[:5])
    recording.write(FRAMES[5:])
    return recording


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_recording_leaves_a_video_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    hasher = FrameHasher()
    with Recording(path, REQUEST) as recording:
        for part in (FRAMES[:5], FRAMES[5:]):
            recording.write(part)
            hasher.update(part)
        assert names(tmp_path) == ["video.partial.json", "video.partial.mp4"]
        assert read_sidecar(tmp_path / "video.partial.mp4") == REQUEST
        recording.note(drift={"verdict": "stable"})
    assert names(tmp_path) == ["video.json", "video.mp4"]
    assert_shows(path, FRAMES)
    found = read_sidecar(path)
    assert found == recording.record
    assert found.is_complete
    assert not REQUEST.is_complete
    assert found.settings == {"threads": 1, "drift": {"verdict": "stable"}}
    assert (found.chunk_hashes, found.frames_hash) == (hasher.chunk_hashes, hasher.frames_hash)
    assert found.frames_per_second == pytest.approx(12 / found.wall_seconds)
    assert unnamed(path) is None


@pytest.mark.parametrize("taken", ["video.mp4", "video.json"])
def test_what_exists_is_kept_unless_overwritten_and_then_to_the_end(
    tmp_path: Path, taken: str
) -> None:
    path = tmp_path / "video.mp4"
    (tmp_path / taken).write_bytes(b"precious")
    for refuse in (check_recording, lambda path: Recording(path, REQUEST)):
        with pytest.raises(FileExistsError, match="`overwrite` is off"):
            refuse(path)
    assert names(tmp_path) == [taken]
    with record(path, overwrite=True):
        assert (tmp_path / taken).read_bytes() == b"precious"
    assert_shows(path, FRAMES)
    assert read_sidecar(path).is_complete


def test_an_exception_leaves_the_partial_video_and_the_request(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with pytest.raises(KeyboardInterrupt), record(path):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["video.partial.json", "video.partial.mp4"]
    assert read_sidecar(tmp_path / "video.partial.mp4") == REQUEST
    assert unnamed(path) is None  # nobody knows whether more frames would have come
    with pytest.raises(FileExistsError, match="an unfinished video is here"):
        record(path)
    with record(path, overwrite=True):
        pass
    assert names(tmp_path) == ["video.json", "video.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_a_recording_without_frames_leaves_nothing(
    tmp_path: Path, error: type[BaseException] | None
) -> None:
    with pytest.raises(error or ValueError), Recording(tmp_path / "video.mp4", REQUEST):  # noqa: PT012
        if error is not None:
            raise error
    assert not names(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_a_kill_at_any_step_of_the_end_loses_neither_frames_nor_record(
    tmp_path: Path, step: int, overwrite: bool
) -> None:
    path = tmp_path / "video.mp4"
    if overwrite:
        path.write_bytes(b"older")
        path.with_suffix(".json").write_bytes(b"older")

    def work() -> None:
        recording = record(path, overwrite=overwrite)
        left = step

        def counted(module: object, name: str) -> None:
            real = getattr(module, name)

            def call(*args: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

            setattr(module, name, call)

        counted(recording_module, "write_all")
        counted(writer_module, "remux")
        counted(writer_module, "_rename_open")
        counted(recording_module, "_name_record")
        recording.close()

    killed = in_child(work) == -signal.SIGKILL
    assert killed == (step < 5)
    partial = tmp_path / "video.partial.mp4"
    if step == 0:  # the record is not written yet, so what is there counts as unfinished
        assert unnamed(path) is None
        assert_shows(partial, FRAMES)
        return
    if killed:
        found = unnamed(path)
        assert found is not None
        assert dataclasses.replace(found, wall_seconds=0, frames_per_second=0) == (
            dataclasses.replace(
                REQUEST, chunk_hashes=found.chunk_hashes, frames_hash=found.frames_hash
            )
        )
        assert_shows(partial, FRAMES)
        if overwrite:
            assert path.read_bytes() == b"older"
        else:
            assert not path.exists()
        complete(path, overwrite=overwrite)
    assert names(tmp_path) == ["video.json", "video.mp4"]
    assert_shows(path, FRAMES)
    assert read_sidecar(path).is_complete
    assert unnamed(path) is None


def test_a_full_disk_at_the_end_keeps_frames_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    recording = record(path)
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "create", lambda path: FullDisk(path, "x+"))
        with pytest.raises(DiskFullError, match="all frames are in this file"):
            recording.close()
    assert names(tmp_path) == ["video.partial.json", "video.partial.mp4"]
    assert unnamed(path) == recording.record
    complete(path)
    assert names(tmp_path) == ["video.json", "video.mp4"]
    assert read_sidecar(path) == recording.record


def test_the_room_for_the_record_is_taken_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the record can be written when nothing else can."""
    many = dataclasses.replace(REQUEST, chunk_sizes=(1,) * 60)
    with Recording(tmp_path / "video.mp4", many) as recording:
        reserved = (tmp_path / "video.partial.json").stat().st_size
        for _ in range(60):
            recording.write(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8))
        recording.note(drift={str(i): "x" * 100 for i in range(100)})
    assert (tmp_path / "video.json").stat().st_size < reserved

    monkeypatch.setattr(recording_module, "create", lambda path: FullDisk(path, "x+"))
    with pytest.raises(DiskFullError, match="free some space and run again"):
        Recording(tmp_path / "other.mp4", REQUEST)
    assert names(tmp_path) == ["video.json", "video.mp4"]


def test_a_record_that_is_taken_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    recording = record(path)
    (tmp_path / "video.json").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"`overwrite` is off.*video\.json"):
        recording.close()
    assert (tmp_path / "video.json").read_bytes() == b"precious"
    (tmp_path / "video.json").unlink()
    complete(path)
    assert read_sidecar(path) == recording.record


def test_a_record_that_is_deleted_meanwhile_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with record(path) as recording:
        (tmp_path / "video.partial.json").unlink()
    assert read_sidecar(path) == recording.record


def test_links_in_the_place_of_the_record_are_never_written_through(tmp_path: Path) -> None:
    path, victim = tmp_path / "video.mp4", tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("video.partial.json", "video.json.partial", "video.json"):
        (tmp_path / name).symlink_to(victim)
    with record(path, overwrite=True) as recording:
        pass
    assert read_sidecar(path) == recording.record
    assert not (tmp_path / "video.json").is_symlink()
    assert victim.read_bytes() == b"precious"


def test_a_second_recording_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with record(path) as recording:
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="another run is writing"):
                Recording(path, REQUEST, overwrite=overwrite)
        assert unnamed(path) is None
    assert read_sidecar(path) == recording.record


def test_a_broken_disk_that_is_not_full_is_reported_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    recording = record(tmp_path / "video.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "remux", broken)
        with pytest.raises(OSError, match="Input/output error"):
            recording.close()
    assert unnamed(tmp_path / "video.mp4") == recording.record
