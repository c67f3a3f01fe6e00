from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import signal
import struct
import subprocess
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.video.reformatter import VideoReformatter

from tethercache import files as files_module
from tethercache.video import (
    DiskFullError,
    VideoWriter,
    check_target,
    probe,
    read_frames,
)
from tethercache.video import writer as writer_module
from tethercache.video.colour import to_yuv
from tethercache.video.mp4 import FragmentEncoder, remux
from tethercache.video.writer import finish

WIDTH, HEIGHT = 48, 32


def make_frames(num: int, first: int = 0) -> npt.NDArray[np.uint8]:
    """Frames `[num, HEIGHT, WIDTH, 3]` that differ: the grey brightens, and a white bar moves."""
    frames = np.empty((num, HEIGHT, WIDTH, 3), np.uint8)
    for i in range(num):
        frames[i] = 40 + 5 * ((first + i) % 32)
        frames[i, :, (3 * (first + i)) % WIDTH :][:, :4] = 255
    return frames


def open_writer(path: Path, **options: object) -> VideoWriter:
    return VideoWriter(path, **{"fps": 16, "width": WIDTH, "height": HEIGHT, **options})


def assert_shows(path: Path, expected: npt.NDArray[np.uint8]) -> None:
    """The file holds exactly these frames, in this order, up to compression.

    Neighbours of `make_frames` differ by 10 levels or more on average.
    """
    got = np.stack(list(read_frames(path)))
    assert got.shape == expected.shape
    difference = np.abs(got.astype(int) - expected).mean(axis=(1, 2, 3))
    assert difference.max() < 4


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def boxes(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of the boxes that follow one another in some bytes of an mp4."""
    result, start = [], 0
    while start < len(data):
        size, name = struct.unpack_from(">I4s", data, start)
        result.append((name.decode(), data[start + 8 : start + size]))
        start += size
    assert start == len(data)
    return result


def test_a_complete_video_has_its_name_and_all_frames_at_exact_times(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    frames = make_frames(30)
    with open_writer(path) as writer:
        for start, stop in ((0, 1), (1, 9), (9, 9), (9, 21), (21, 30)):
            writer.write(frames[start:stop])
            assert not path.exists()
        assert writer.num_frames == 30
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    assert_shows(path, frames)
    with av.open(str(path)) as container:
        times = [f.pts * f.time_base for f in container.decode(video=0)]
    assert times == [Fraction(i, 16) for i in range(30)]


@pytest.mark.parametrize("fps", [16, 24.0, Fraction(30000, 1001), 23.976, 12.5, 1, 0.5, 240])
def test_any_frame_rate_is_exact(tmp_path: Path, fps: int | float | Fraction) -> None:
    path = tmp_path / "video.mp4"
    with open_writer(path, fps=fps) as writer:
        writer.write(make_frames(5))
        writer.write(make_frames(2, first=5))
    exact = writer.fps
    assert abs(exact - Fraction(fps)) < Fraction(1, 10**9)
    info = probe(path)
    assert info.fps == exact
    assert info.duration == pytest.approx(float(7 / exact))
    with av.open(str(path)) as container:
        assert [f.pts * f.time_base for f in container.decode(video=0)] == [
            i / exact for i in range(7)
        ]


def parts(data: bytes, *path: str) -> bytes:
    """What is in a box of an mp4, given by the names of the boxes around it and its own."""
    for name in path:
        data = dict(boxes(data))[name]
    return data


def test_the_growing_file_is_fragmented(tmp_path: Path) -> None:
    with open_writer(tmp_path / "video.mp4") as writer:
        for first in range(0, 40, 8):
            writer.write(make_frames(8, first=first))
        top = boxes(writer.partial_path.read_bytes())
    assert [name for name, _ in top] == ["ftyp", "moov", *["moof", "mdat"] * 5]


@pytest.mark.parametrize("fps", [16, Fraction(30000, 1001)])
def test_the_finished_file_is_ordinary_with_its_index_in_front(
    tmp_path: Path, fps: Fraction | int
) -> None:
    path = tmp_path / "video.mp4"
    with open_writer(path, fps=fps) as writer:
        for first in range(0, 40, 8):
            writer.write(make_frames(8, first=first))
    data = path.read_bytes()
    assert [name for name, _ in boxes(data)] == ["ftyp", "moov", "free", "mdat"]
    assert {name for name, _ in boxes(parts(data, "moov"))} == {"mvhd", "trak", "udta"}
    assert {name for name, _ in boxes(parts(data, "moov", "trak"))} == {"tkhd", "mdia"}
    movie = parts(data, "moov", "mvhd")
    timescale, duration = struct.unpack_from(">II", movie, 12)
    assert Fraction(duration, timescale) == 40 / Fraction(fps)
    assert struct.unpack_from(">I", parts(data, "moov", "trak", "tkhd"), 20) == (duration,)
    media = parts(data, "moov", "trak", "mdia", "mdhd")
    assert struct.unpack_from(">II", media, 12) == (timescale, duration)
    table = parts(data, "moov", "trak", "mdia", "minf", "stbl")
    assert struct.unpack(">4I", parts(table, "stts")) == (0, 1, 40, duration // 40)
    assert struct.unpack_from(">3I", parts(table, "stsz"))[2] == 40
    (offset,) = struct.unpack_from(">I", parts(table, "stco"), 8)
    assert offset == data.index(b"mdat") + 4


def test_the_finished_file_holds_the_packets_of_the_growing_one(tmp_path: Path) -> None:
    def packets(path: Path) -> list[tuple[int, bool, bytes]]:
        with av.open(str(path)) as file:
            found = file.demux(video=0)
            return [(p.pts, p.is_keyframe, bytes(p)) for p in found if p.size]

    path = tmp_path / "video.mp4"
    with open_writer(path) as writer:
        for first in range(0, 60, 12):
            writer.write(make_frames(12, first=first))
        growing = packets(writer.partial_path)
    assert packets(path) == growing
    assert len(growing) == 60


def test_another_encoder_can_go_on_at_a_border(tmp_path: Path) -> None:
    """What a resumed video needs: cut back to a border, encode anew from there, join the bytes."""
    frames = make_frames(36)
    first, second = (FragmentEncoder(Fraction(16), WIDTH, HEIGHT, first_frame=n) for n in (0, 24))
    assert first.header == second.header
    data = first.header + first.encode(frames[:12]) + first.encode(frames[12:24])
    data += second.encode(frames[24:])
    again = FragmentEncoder(Fraction(16), WIDTH, HEIGHT, first_frame=24).encode(frames[24:])
    assert data.endswith(again)
    path = tmp_path / "joined.mp4"
    path.write_bytes(data)
    assert_shows(path, frames)
    with av.open(str(path)) as container:
        assert [f.time for f in container.decode(video=0)] == [i / 16 for i in range(36)]


def test_a_better_quality_takes_more_bytes(tmp_path: Path) -> None:
    sizes = []
    for crf in (1, 18, 40):
        path = tmp_path / f"{crf}.mp4"
        with open_writer(path, crf=crf) as writer:
            writer.write(noise(0))
        sizes.append(path.stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_chroma_stands_where_the_stream_says(tmp_path: Path, axis: int) -> None:
    """H.264 that does not say otherwise: at the left of two pixels, between two rows."""
    red = np.arange(64.0) - 32
    image = np.full((64, 64, 3), 128.0)
    image += np.moveaxis(np.broadcast_to(red * 2, (64, 64)), 1, axis)[..., None] * [1.57, -0.47, 0]
    image = image.clip(0, 255).round().astype(np.uint8)
    path = tmp_path / "video.mp4"
    with open_writer(path, width=64, height=64, crf=1) as writer:
        writer.write(image[None])
    with av.open(str(path)) as container:
        (frame,) = container.decode(video=0)
    red_chroma = frame.to_ndarray()[-16:].reshape(32, 32).astype(float).mean(axis=1 - axis)
    position = (red_chroma - 128) * 255 / 224 / 2 + 32
    middle = slice(8, 24)
    offset = (position - 2 * np.arange(32))[middle].mean()
    assert offset == pytest.approx(0.0 if axis == 1 else 0.5, abs=0.1)
    alone = to_yuv(VideoReformatter(), image).to_ndarray()[-16:].astype(float)
    assert abs(alone - frame.to_ndarray()[-16:]).mean() < 1
    shown = next(read_frames(path))[16:48, 16:48].astype(float)
    assert abs((shown - image[16:48, 16:48]).mean(axis=(0, 1))).max() < 0.5


def test_players_see_the_length_the_codec_and_the_colours(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with open_writer(path) as writer:
        writer.write(make_frames(40))
    info = probe(path)
    assert (info.width, info.height, info.fps) == (WIDTH, HEIGHT, 16)
    assert (info.num_frames, info.duration, info.codec) == (40, 2.5, "h264")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert container.duration == 2_500_000
        assert stream.duration * stream.time_base == Fraction(5, 2)
        assert stream.average_rate == 16
        context = stream.codec_context
        assert context.pix_fmt == "yuv420p"
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1)  # BT.709
        assert context.color_range == 1  # limited


def test_the_video_can_be_seeked(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with open_writer(path) as writer:
        for first in range(0, 160, 16):
            writer.write(make_frames(16, first=first))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for index in (150, 3, 80):
            container.seek(int(index / 16 / stream.time_base), stream=stream)
            frames = container.decode(stream)
            first = next(frames)
            assert 0 <= index / 16 - first.time <= 2  # a keyframe every two seconds
            shown = next(f for f in (first, *frames) if f.time >= index / 16)
            assert shown.time == index / 16


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        with open_writer(tmp_path / f"{name}.mp4") as writer:
            writer.write(make_frames(20))
            writer.write(make_frames(20, first=20))
        files.append((tmp_path / f"{name}.mp4").read_bytes())
    assert files[0] == files[1]


def test_chunking_changes_no_pixel(tmp_path: Path) -> None:
    frames = make_frames(14)
    videos = []
    for chunk in (14, 1, 5):
        path = tmp_path / f"{chunk}.mp4"
        with open_writer(path) as writer:
            for start in range(0, 14, chunk):
                writer.write(frames[start : start + chunk])
        videos.append(np.stack(list(read_frames(path))))
    assert np.array_equal(videos[0], videos[1])
    assert np.array_equal(videos[0], videos[2])


def test_flat_colours_survive_within_three_levels(tmp_path: Path) -> None:
    corners = np.stack(np.meshgrid(*[[0, 255]] * 3), axis=-1).reshape(-1, 3)
    colours = np.concatenate([corners, np.random.default_rng(0).integers(0, 256, (40, 3))])
    with open_writer(tmp_path / "video.mp4") as writer:
        shape = (len(colours), HEIGHT, WIDTH, 3)
        writer.write(np.broadcast_to(colours[:, None, None].astype(np.uint8), shape))
    shown = np.stack(list(read_frames(tmp_path / "video.mp4")))
    assert np.abs(shown.astype(int) - colours[:, None, None]).max() <= 3


def test_tensors_are_written_like_arrays(tmp_path: Path) -> None:
    frames = torch.from_numpy(make_frames(4)).permute(0, 3, 1, 2).contiguous()
    with open_writer(tmp_path / "video.mp4") as writer:
        writer.write(frames.permute(0, 2, 3, 1))
    assert_shows(tmp_path / "video.mp4", make_frames(4))


@pytest.mark.parametrize(("num_chunks", "chunk"), [(1, 12), (4, 12), (5, 1), (1, 1)])
def test_after_kill_9_the_partial_file_plays_up_to_the_last_written_chunk(
    tmp_path: Path, num_chunks: int, chunk: int
) -> None:
    path = tmp_path / "video.mp4"

    def work() -> None:
        writer = open_writer(path)
        for i in range(num_chunks):
            writer.write(make_frames(chunk, first=i * chunk))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["video.partial.mp4"]
    partial = tmp_path / "video.partial.mp4"
    assert_shows(partial, make_frames(num_chunks * chunk))
    assert probe(partial).num_frames == num_chunks * chunk
    with av.open(str(partial)) as container:
        assert container.duration == num_chunks * chunk * 1_000_000 // 16


def test_a_kill_in_the_middle_of_any_write_costs_at_most_the_chunk_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[bytes, int]] = []

    class Recorded(io.FileIO):
        def write(self, data: bytes) -> int:
            writes.append((bytes(data), self.tell()))
            return super().write(data)

    monkeypatch.setattr(writer_module, "create", lambda path: Recorded(path, "x+"))
    writer = open_writer(tmp_path / "video.mp4")
    writer.write(make_frames(3))
    before_second_chunk = len(writes)
    writer.write(make_frames(3, first=3))
    after_second_chunk = len(writes)
    writer.abandon()

    torn = tmp_path / "torn.mp4"
    file = bytearray()
    for number, (data, offset) in enumerate(writes):
        if number >= before_second_chunk:
            for cut in sorted({*range(0, min(len(data), 40)), *range(0, len(data), 29)}):
                torn.write_bytes(file[:offset] + data[:cut] + file[offset + cut :])
                complete = 3 if number < after_second_chunk else 6
                assert len(list(read_frames(torn))) == complete
        file[offset : offset + len(data)] = data
    assert bytes(file) == writer.partial_path.read_bytes()


def test_an_exception_leaves_a_playable_partial_file_and_no_final_one(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with pytest.raises(KeyboardInterrupt), open_writer(path) as writer:  # noqa: PT012
        writer.write(make_frames(8))
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["video.partial.mp4"]
    assert_shows(tmp_path / "video.partial.mp4", make_frames(8))
    with pytest.raises(ValueError, match="is closed"):
        writer.write(make_frames(1))
    with pytest.raises(ValueError, match=r"broke off; see .*video\.partial\.mp4"):
        writer.close()


def test_what_a_killed_run_has_left_is_refused_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"

    def work() -> None:
        writer = open_writer(path)
        writer.write(make_frames(8))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    for refuse in (check_target, open_writer):
        with pytest.raises(FileExistsError, match=r"an unfinished video is here.*video\.partial"):
            refuse(path)
    assert_shows(tmp_path / "video.partial.mp4", make_frames(8))
    with open_writer(path, overwrite=True) as writer:
        writer.write(make_frames(4))
        assert writer.partial_path == tmp_path / "video.partial.mp4"
        assert_shows(writer.partial_path, make_frames(4))
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_a_video_that_another_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"

    def rival() -> None:
        for overwrite in (False, True):
            for refuse in (check_target, open_writer):
                with pytest.raises(FileExistsError, match=r"another run is writing.*video\.part"):
                    refuse(path, overwrite=overwrite)

    with open_writer(path) as writer:
        writer.write(make_frames(4))
        assert in_child(rival) == 0
        rival()
        writer.write(make_frames(4, first=4))
    assert_shows(path, make_frames(8))
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_only_the_file_that_was_written_gets_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = open_writer(path)
    writer.write(make_frames(4))
    writer.partial_path.rename(tmp_path / "mine.mp4")
    writer.partial_path.write_bytes(b"another's")
    with pytest.raises(FileNotFoundError, match=r"moved, deleted or replaced.*video\.partial"):
        writer.close()
    assert not path.exists()
    assert writer.partial_path.read_bytes() == b"another's"
    assert_shows(tmp_path / "mine.mp4", make_frames(4))


def test_without_locks_a_rival_that_overwrites_cannot_spoil_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files_module.fcntl, "flock", no_locks)
    path = tmp_path / "video.mp4"
    first = open_writer(path)
    first.write(make_frames(4))
    second = open_writer(path, overwrite=True)
    second.write(make_frames(6))
    with pytest.raises(FileNotFoundError, match="replaced while it was written"):
        first.close()
    second.close()
    assert_shows(path, make_frames(6))


def test_an_existing_video_is_refused_unless_overwritten_and_then_kept_to_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"`overwrite` is off.*video\.mp4"):
        open_writer(path)
    with open_writer(path, overwrite=True) as writer:
        writer.write(make_frames(4))
        assert path.read_bytes() == b"precious"
    assert_shows(path, make_frames(4))


def test_a_video_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = open_writer(path)
    writer.write(make_frames(4))
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        writer.close()
    assert path.read_bytes() == b"precious"
    assert_shows(tmp_path / "video.partial.mp4", make_frames(4))


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "video.mp4")
    writer.write(make_frames(1))
    writer.close()
    writer.close()
    assert_shows(tmp_path / "video.mp4", make_frames(1))


def test_a_video_without_frames_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frame was written"), open_writer(tmp_path / "v.mp4"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"width": 47}, r"`width` \(47\) must be even and positive: yuv420p"),
        ({"height": 31}, r"`height` \(31\) must be even and positive: yuv420p"),
        ({"height": 0}, r"`height` \(0\) must be even and positive"),
        ({"fps": 0}, r"`fps` \(0\) must be a positive number"),
        ({"fps": float("nan")}, r"`fps` \(nan\) must be a positive number"),
        ({"crf": 52}, r"`crf` \(52\) must be a whole number from 1 to 51"),
        ({"crf": 18.5}, r"`crf` \(18\.5\) must be a whole number from 1 to 51"),
    ],
)
def test_impossible_sizes_are_refused_by_name(
    tmp_path: Path, options: dict[str, float], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        open_writer(tmp_path / "video.mp4", **options)
    assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no such folder; create it first.*missing"):
        check_target(tmp_path / "missing" / "video.mp4")
    with pytest.raises(NotADirectoryError, match=r"not a folder.*file"):
        check_target(tmp_path / "file" / "video.mp4")
    with pytest.raises(IsADirectoryError, match=r"a folder has this name.*folder\.mp4"):
        check_target(tmp_path / "folder.mp4", overwrite=True)
    with pytest.raises(ValueError, match=r"`path` must end in \.mp4, got .*video\.avi"):
        check_target(tmp_path / "video.avi")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no permission to write in this folder"):
        open_writer(tmp_path / "video.mp4")


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((2, 3, HEIGHT, WIDTH), np.uint8),
        np.zeros((2, WIDTH, HEIGHT, 3), np.uint8),
    ],
    ids=lambda frames: f"{frames.dtype}{frames.shape}",
)
def test_frames_of_another_kind_are_refused_and_harm_nothing(
    tmp_path: Path, frames: npt.NDArray[np.uint8]
) -> None:
    with open_writer(tmp_path / "video.mp4") as writer:
        with pytest.raises(ValueError, match=r"`frames` must be"):
            writer.write(frames)
        writer.write(make_frames(2))
    assert_shows(tmp_path / "video.mp4", make_frames(2))


class FullDisk(io.FileIO):
    """A file that nothing can be written to."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def noise(seed: int) -> npt.NDArray[np.uint8]:
    """Four frames that compress badly, about 7 kB."""
    shape = (4, HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_full_disk_is_survived(path: Path) -> None:
    """Write until nothing goes any more, and look at what is left."""
    written = 0
    with pytest.raises(DiskFullError, match="free some space") as caught, open_writer(path) as w:  # noqa: PT012
        for seed in range(100):
            w.write(noise(seed))
            written += 4
    assert caught.value.filename == str(w.partial_path)
    assert written >= 4
    assert not path.exists()
    assert len(list(read_frames(w.partial_path))) == written
    with pytest.raises(ValueError, match="broke off"):
        w.close()


def test_a_full_disk_is_one_clear_error_and_leaves_the_chunks_before_it(
    small_disk: Path,
) -> None:
    assert_full_disk_is_survived(small_disk / "video.mp4")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no permission to mount a small file system: {error}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_largest_file_size_is_survived_like_a_full_disk(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        assert_full_disk_is_survived(tmp_path / "video.mp4")

    assert in_child(work) == 0


def test_a_disk_that_is_full_from_the_start_fails_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "create", lambda path: FullDisk(path, "x+"))
    with pytest.raises(DiskFullError, match=r"No space left on device: .* free some space"):
        open_writer(tmp_path / "video.mp4")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_at_the_end_keeps_all_frames_and_the_video_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video.mp4"
    with monkeypatch.context() as patch:
        writer = open_writer(path)
        writer.write(make_frames(12))
        patch.setattr(writer_module, "create", lambda path: FullDisk(path, "x+"))
        with pytest.raises(DiskFullError, match=r"all frames are in .*\.partial\.mp4"):
            writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["video.partial.mp4"]
    assert_shows(writer.partial_path, make_frames(12))
    finish(path)
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    whole = path.read_bytes()
    path.unlink()
    with open_writer(path) as writer:
        writer.write(make_frames(12))
    assert path.read_bytes() == whole


def test_a_small_disk_that_is_full_at_the_end_is_survived(small_disk: Path) -> None:
    path = small_disk / "video.mp4"
    writer = open_writer(path)
    while writer.partial_path.stat().st_size < 40_000:
        writer.write(noise(writer.num_frames))
    with pytest.raises(DiskFullError, match="all frames are in this file"):
        writer.close()
    assert [p.name for p in small_disk.iterdir()] == ["video.partial.mp4"]
    assert len(list(read_frames(writer.partial_path))) == writer.num_frames


@pytest.mark.parametrize("lost", ["file", "folder"])
def test_a_partial_file_that_is_gone_is_noticed_at_the_next_chunk(
    tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    writer = open_writer(folder / "video.mp4")
    writer.write(make_frames(4))
    writer.partial_path.unlink() if lost == "file" else shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match=r"moved, deleted or replaced.*video\.partial"):
        writer.write(make_frames(4))


def test_a_partial_file_without_frames_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    header = FragmentEncoder(Fraction(16), WIDTH, HEIGHT).header
    for content in (b"", header):
        (tmp_path / "video.partial.mp4").write_bytes(content)
        check_target(path)
        with open_writer(path, overwrite=True) as writer:
            writer.write(make_frames(2))
        path.unlink()
    (tmp_path / "video.partial.mp4").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="an unfinished video is here"):
        check_target(path)


def test_a_writer_that_is_left_before_its_first_frame_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / "video.mp4"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_links_and_pipes_in_the_place_of_the_files_are_never_written_through(
    tmp_path: Path,
) -> None:
    path, victim = tmp_path / "video.mp4", tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.mkfifo(tmp_path / "pipe.partial.mp4")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="pipe"):
            check_target(tmp_path / "pipe.mp4", overwrite=overwrite)
    (tmp_path / "linked.partial.mp4").symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="link"):
            open_writer(tmp_path / "linked.mp4", overwrite=overwrite)
    (tmp_path / "video.mp4.partial").symlink_to(victim)
    path.symlink_to(victim)
    with open_writer(path, overwrite=True) as writer:
        writer.write(make_frames(2))
    assert not path.is_symlink()
    assert_shows(path, make_frames(2))
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="`overwrite` is off"):
        check_target(path)
    assert victim.read_bytes() == b"precious"


def test_a_name_that_is_too_long_for_the_partial_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is too long for this folder"):
        check_target(tmp_path / f"{'x' * 248}.mp4")


def test_an_ordinary_mp4_copied_again_is_itself(tmp_path: Path) -> None:
    """So a video is the same file if the run breaks off between copying and naming."""
    noise = np.random.default_rng(0).integers(0, 255, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "video.mp4"
    with VideoWriter(path, fps=16, width=WIDTH, height=HEIGHT) as writer:
        writer.write(noise[:7])
        writer.write(noise[7:])
    again = tmp_path / "again.mp4"
    with path.open("rb") as source, again.open("w+b") as target:
        remux(source, target)
    assert again.read_bytes() == path.read_bytes()


class _Failing(io.FileIO):
    """A disk that takes no more after some bytes."""

    left = 3000

    def write(self, part: Any) -> int:
        if self.left < len(part):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self.left -= len(part)
        return super().write(part)


def test_what_fails_while_a_video_is_copied_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PyAV prints a traceback of every error behind the first."""
    noise = np.random.default_rng(0).integers(0, 255, (20, HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path / "video.mp4"
    with VideoWriter(path, fps=16, width=WIDTH, height=HEIGHT) as writer:
        writer.write(noise)
    target = io.BufferedWriter(_Failing(tmp_path / "again.mp4", "w+b"))
    with path.open("rb") as source, pytest.raises(OSError, match="Read-only"):
        remux(source, target)
    assert capfd.readouterr() == ("", "")
