"""H.264 in mp4, all by FFmpeg: fragments while a video grows, an ordinary file when it is whole.

FFmpeg's muxer closes a fragment only when a later packet arrives or the file ends, and PyAV cannot
ask it to do so earlier: with `frag_every_frame`, too, the newest frame would stay in memory. So
every chunk of frames gets a muxer of its own, whose end closes the fragment; of what it writes,
only the fragment is used. The encoder behind them is one.

This file knows nothing about names, locks and full disks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BufferedWriter, FileIO
from typing import BinaryIO, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from tethercache.files import write_all
from tethercache.video.colour import ToYuv

DEFAULT_CRF = 18
_BT709 = 1  # H.273: the same code for primaries, transfer and matrix
KEYFRAME_SECONDS = 2
_BYTES_A_PIXEL = 0.03  # at the default quality: 0.026 to 0.065 on generated videos of 832x480
_FRAGMENTED = "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer"


class FragmentEncoder:
    """Encodes chunks of frames without delay; each becomes one fragment of an mp4.

    `header` and all fragments one after another are a file, as is every beginning of it. The header
    depends on the sizes alone and a fragment also on the frames since the encoder was made. So
    another encoder, made with `first_frame`, can go on where one has stopped.

    Args:
        fps: frames a second; frame i is shown at exactly i / fps.
        width: pixels, even.
        height: pixels, even.
        crf: x264's quality, 1 (best) to 51.
        first_frame: number of the first frame that will be encoded.
        keyframe_every: frames from one keyframe to the next; None: two seconds.
    """

    def __init__(
        self,
        fps: Fraction,
        width: int,
        height: int,
        *,
        crf: int = DEFAULT_CRF,
        first_frame: int = 0,
        keyframe_every: int | None = None,
    ) -> None:
        self.num_frames = first_frame
        self._frame_time = 1 / fps
        self._timescale = timescale(fps)
        self._to_yuv = ToYuv(width, height)
        file = io.BytesIO()
        self._muxer = _open_muxer(file, self._timescale, _FRAGMENTED)
        self._stream = self._muxer.add_stream("libx264", rate=fps)
        # one thread, no look-ahead, no B-frames: every frame comes out at once, and the bytes do
        # not depend on the machine
        encoder = self._encoder = self._stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.time_base = self._frame_time
        encoder.thread_count = 1
        encoder.gop_size = keyframe_every or max(1, round(KEYFRAME_SECONDS * fps))
        encoder.color_range = ColorRange.MPEG
        encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
        encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(crf)}
        self._muxer.start_encoding()
        self.header = file.getvalue()

    def encode(self, frames: npt.NDArray[np.uint8]) -> bytes:
        """Encode the next frames, uint8 RGB `[F, height, width, 3]`; returns their fragment."""
        file = io.BytesIO()
        options = {"fragment_index": str(self.num_frames + 1)}  # rises, whoever has written before
        with _open_muxer(file, self._timescale, _FRAGMENTED, options) as muxer:
            stream = muxer.add_stream_from_template(self._stream, opaque=True)
            muxer.start_encoding()
            start = file.tell()
            for image in frames:
                frame = self._to_yuv(image)
                frame.pts, frame.time_base = self.num_frames, self._frame_time
                (packet,) = self._encoder.encode(frame)
                packet.stream, packet.duration = stream, 1
                muxer.mux(packet)
                self.num_frames += 1
        return file.getvalue()[start:]

    def close(self) -> None:
        """Let go of the encoder's memory."""
        self._muxer.close()


def timescale(fps: Fraction) -> int:
    """Ticks a second so that all times are exact: the smallest multiple of the frame rate's
    numerator from 10,000 on.
    """  # noqa: D205
    return fps.numerator * -(-10_000 // fps.numerator)


def expected_bytes(num_frames: int, width: int, height: int, crf: int = DEFAULT_CRF) -> int:
    """What a video is likely to take; with much fine motion it can be several times as much."""
    return int(num_frames * width * height * _BYTES_A_PIXEL * 2 ** ((DEFAULT_CRF - crf) / 6))


def count_frames(file: BinaryIO) -> int:
    """Frames in an mp4; fragments that are not whole do not count.

    Raises:
        av.FFmpegError: the file is no mp4.
    """
    with _reading(file) as source:
        return sum(1 for _ in _packets(source))


def remux(source: BinaryIO, target: BufferedWriter[FileIO]) -> None:
    """Copy a fragmented mp4 to an ordinary one, with its index in front; nothing is re-encoded.

    An ordinary mp4 gives itself. Memory grows by about 100 bytes a frame.

    Args:
        source: the mp4 to read.
        target: an empty file, whose name can be opened. FFmpeg reads it again, to move what is in
            it behind the index once the size of that is known.
    """

    def read_again(*_: object) -> BinaryIO:
        target.flush()
        return open(target.name, "rb")

    with _reading(source) as reader:
        video = reader.streams.video[0]
        assert video.time_base is not None
        ticks = video.time_base.denominator
        written = _Unbuffered(target)
        try:
            with _open_muxer(
                cast(BinaryIO, written), ticks, "faststart", io_open=read_again
            ) as muxer:
                stream = muxer.add_stream_from_template(video, opaque=True)
                for packet in _packets(reader):
                    packet.stream = stream
                    muxer.mux(packet)
        except Exception:
            if written.error is not None:  # PyAV may have forgotten it
                raise written.error from None
            raise


class _Unbuffered:
    """A file whose first error is its only one, and whose `seek` writes nothing.

    PyAV raises what goes wrong in a `write`. What goes wrong in a `seek`, or after that, it drops,
    and prints a traceback of it.
    """

    def __init__(self, file: BufferedWriter[FileIO]) -> None:
        file.flush()
        self._raw = file.raw
        self.error: BaseException | None = None
        self.seek, self.tell = self._raw.seek, self._raw.tell

    def write(self, part: bytes) -> int:
        if self.error is None:
            try:
                write_all(self._raw, part)
            except BaseException as error:
                self.error = error
                raise
        return len(part)


def fragments(source: BinaryIO, num_frames: int) -> Iterator[tuple[int, bytes]]:
    """The first frames of an mp4 as fragments, for behind the header of a `FragmentEncoder`.

    Nothing is re-encoded. Each fragment begins with a keyframe.

    Args:
        source: an mp4 of such an encoder, growing or finished.
        num_frames: how many frames.

    Yields:
        The frames in a fragment, and the fragment.

    Raises:
        ValueError: the source has fewer frames.
    """
    with _reading(source) as reader:
        video = reader.streams.video[0]
        waiting: list[av.Packet[VideoStream]] = []
        made = 0
        for packet in _packets(reader):
            if made + len(waiting) == num_frames:
                break
            if packet.is_keyframe and waiting:
                yield len(waiting), _fragment(video, waiting, made)
                made, waiting = made + len(waiting), []
            waiting.append(packet)
        if waiting:
            yield len(waiting), _fragment(video, waiting, made)
        if made + len(waiting) < num_frames:
            raise ValueError(f"the video has {made + len(waiting)} frames, not {num_frames}")


def _fragment(video: VideoStream, packets: list[av.Packet[VideoStream]], first: int) -> bytes:
    """A fragment of packets whose first is frame number `first`."""
    assert video.time_base is not None
    file, options = io.BytesIO(), {"fragment_index": str(first + 1)}
    with _open_muxer(file, video.time_base.denominator, _FRAGMENTED, options) as muxer:
        stream = muxer.add_stream_from_template(video, opaque=True)
        muxer.start_encoding()
        start = file.tell()
        for packet in packets:
            packet.stream = stream
            muxer.mux(packet)
    return file.getvalue()[start:]


def _reading(file: BinaryIO) -> InputContainer:
    """A demuxer of an mp4, whose titles need not be text."""
    return av.open(file, "r", format="mp4", metadata_errors="replace")


def _packets(source: InputContainer) -> Iterator[av.Packet[VideoStream]]:
    """The video's packets, one a frame; memory does not depend on their number."""
    videos = source.streams.video[:1]  # a damaged file may have none
    return (packet for packet in source.demux(videos) if packet.size) if videos else iter(())


def _open_muxer(
    file: BinaryIO,
    ticks: int,
    flags: str,
    options: dict[str, str] | None = None,
    io_open: Callable[..., BinaryIO] | None = None,
) -> OutputContainer:
    """A muxer of an mp4 whose times are whole numbers of 1 / `ticks` seconds from 0 on."""
    return av.open(
        file,
        "w",
        format="mp4",
        io_open=io_open,
        options={
            "movflags": flags,
            "use_editlist": "0",
            "avoid_negative_ts": "disabled",  # else the muxer of each fragment would begin at 0
            "movie_timescale": str(ticks),
            "video_track_timescale": str(ticks),
            "fflags": "+bitexact",
            # it would be rounded from the packets here, and from itself when it is copied again
            "write_btrt": "0",
            **(options or {}),
        },
    )
