from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tethercache.video import UnreadableVideoError, VideoWriter, probe, read_frames
from tethercache.video.mp4 import FragmentEncoder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten frames of one grey each: 20, 40, ... 200."""
    path = tmp_path / "video.mp4"
    with VideoWriter(path, fps=10, width=32, height=16) as writer:
        for grey in range(20, 201, 20):
            writer.write(np.full((1, 16, 32, 3), grey, np.uint8))
    return path


@pytest.mark.parametrize(
    ("every", "greys"),
    [
        (1, range(20, 201, 20)),
        (2, range(20, 201, 40)),
        (4, (20, 100, 180)),
        (10, (20,)),
        (99, (20,)),
    ],
)
def test_every_nth_frame_is_read(video: Path, every: int, greys: tuple[int, ...]) -> None:
    frames = list(read_frames(video, every))
    assert [f.shape for f in frames] == [(16, 32, 3)] * len(greys)
    assert all(f.dtype == np.uint8 for f in frames)
    assert [float(f.mean()) for f in frames] == pytest.approx(list(greys), abs=2)


def test_frames_stay_as_they_are_while_others_are_read(video: Path) -> None:
    reader = read_frames(video)
    first = next(reader)
    copy = first.copy()
    list(reader)
    assert np.array_equal(first, copy)


def test_reading_can_stop_early(video: Path) -> None:
    reader = read_frames(video)
    next(reader)
    reader.close()
    video.unlink()


def test_every_must_be_positive(video: Path) -> None:
    with pytest.raises(ValueError, match=r"`every` \(0\) must be at least 1"):
        next(read_frames(video, 0))


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such video.*nowhere\.mp4"):
        probe(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("content", [b"", b"this is no video" * 100], ids=["empty", "text"])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableVideoError, match=r"video\.mp4 cannot be read as a video"):
        probe(path)
    with pytest.raises(UnreadableVideoError, match=r"video\.mp4 cannot be read as a video"):
        list(read_frames(path))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableVideoError, match="is no ordinary file"):
        probe(tmp_path)


def test_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate = 48000
        container.mux([*stream.encode(silence), *stream.encode(None)])
    with pytest.raises(UnreadableVideoError, match=r"sound\.mp4 contains no video"):
        probe(path)
    with pytest.raises(UnreadableVideoError, match=r"sound\.mp4 contains no video"):
        next(read_frames(path))


def test_a_video_without_frames_is_refused(video: Path) -> None:
    video.write_bytes(FragmentEncoder(Fraction(16), 48, 32).header)
    with pytest.raises(
        UnreadableVideoError, match=r"video\.mp4 (contains no frames|cannot be read)"
    ):
        probe(video)
    with pytest.raises(
        UnreadableVideoError, match=r"video\.mp4 (contains no frames|cannot be read)"
    ):
        list(read_frames(video))


def test_a_damaged_video_is_an_error_and_not_a_short_video(video: Path) -> None:
    encoder = FragmentEncoder(Fraction(10), 32, 16)
    greys = np.arange(20, 201, 20, np.uint8)[:, None, None, None, None]
    fragments = [encoder.encode(np.broadcast_to(grey, (1, 16, 32, 3))) for grey in greys]
    data = encoder.header + b"".join(fragments)
    video.write_bytes(data[: data.rindex(b"mdat") + 9])
    frames = []
    with pytest.raises(UnreadableVideoError, match="cannot be read as a video"):  # noqa: PT012
        for frame in read_frames(video):
            frames.append(frame)
    assert len(frames) >= 9


def test_an_ordinary_mp4_with_reordered_frames_is_read(tmp_path: Path) -> None:
    path = tmp_path / "other.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, width=32, height=16)
        stream.pix_fmt = "yuv420p"
        for grey in range(0, 240, 10):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), grey, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration) == (24, 24, 1.0)
    greys = [float(f.mean()) for f in read_frames(path)]
    assert greys == pytest.approx(list(range(0, 240, 10)), abs=4)


def h264(path: Path, *, count: int = 24, rotation: float = 0.0, title: str = "") -> Path:
    """The upper half of the picture is light."""
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8] = 200
    with av.open(str(path), "w") as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream("libx264", rate=24, width=32, height=16)
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_rotated_video_is_read_as_it_is_shown(tmp_path: Path, rotation: int) -> None:
    plain = next(read_frames(h264(tmp_path / "plain.mp4")))
    turned = next(read_frames(h264(tmp_path / "turned.mp4", rotation=rotation)))
    assert np.array_equal(turned, np.rot90(plain, rotation // 90))


def test_a_title_that_is_not_utf_8_does_not_matter(tmp_path: Path) -> None:
    path = h264(tmp_path / "a.mkv", title="cafe")
    data = path.read_bytes()
    assert data.count(b"cafe") == 1
    path.write_bytes(data.replace(b"cafe", b"caf\xe9"))
    assert probe(path).num_frames == len(list(read_frames(path))) == 24


def test_a_format_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = h264(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NONE4/ISO/AVC"))
    for read in (probe, lambda each: next(read_frames(each))):
        with pytest.raises(UnreadableVideoError, match="format that FFmpeg does not know"):
            read(path)


def test_a_size_that_fills_the_memory_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10, width=16, height=16)
        stream.pix_fmt = "rgb8"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame.reformat(format="rgb8")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    data[6:10] = (16000).to_bytes(2, "little") * 2
    path.write_bytes(data)
    for read in (probe, lambda each: next(read_frames(each))):
        with pytest.raises(UnreadableVideoError, match="16000x16000; at most 33177600 pixels"):
            read(path)


def test_frames_that_an_edit_list_hides_do_not_count(tmp_path: Path) -> None:
    whole, cut = h264(tmp_path / "whole.mp4", count=48), tmp_path / "cut.mp4"
    with av.open(str(whole)) as read, av.open(str(cut), "w") as container:
        old = read.streams.video[0]
        new = container.add_stream_from_template(old)
        assert old.time_base is not None
        shift = round(0.5 / old.time_base)
        for packet in read.demux(old):
            if packet.dts is not None and packet.pts is not None:
                packet.stream = new
                packet.dts, packet.pts = packet.dts - shift, packet.pts - shift
                container.mux(packet)
    info = probe(cut)
    assert info.num_frames == len(list(read_frames(cut))) < 48
    assert info.declared_frames == info.num_frames
    assert info.duration == pytest.approx(1.5, abs=0.1)


def test_a_dropped_frame_leaves_the_rate_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16, width=32, height=16)
        stream.pix_fmt = "yuv420p"
        for index in range(100):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), "rgb24")
            frame.pts = index
            if index != 50:
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (probe(path).num_frames, probe(path).fps) == (99, 16)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nvideo.mp4\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("concat:video.mp4", "a"),
        ("file:video.mp4", "a"),
        ("cache:video.mp4", "a"),
        ("list.m3u8", PLAYLIST),
        ("list.mp4", "ffconcat version 1.0\nfile video.mp4\n"),
        ("text.txt", "drawn as text\n" * 50),
    ],
)
def test_no_other_file_is_read_than_the_one_that_is_named(
    video: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(video.parent)
    assert video.name == "video.mp4"
    Path(name).write_text(content)
    with pytest.raises(UnreadableVideoError):
        probe(name)
    with pytest.raises(UnreadableVideoError):
        next(read_frames(name))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "video.mp4")
    with pytest.raises(UnreadableVideoError, match="is no ordinary file"):
        probe(tmp_path / "video.mp4")
