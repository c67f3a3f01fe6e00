"""Video files to frames, one at a time: for evaluation, and to look at what was written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from tethercache.video.colour import to_rgb

MOST_PIXELS = 7680 * 4320
"""Largest frame that is decoded, 8K: a small file can declare a frame that fills the memory."""

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi asf flv mpeg mpegts mpegvideo m4v ogg mxf ivf nut "
    "dv yuv4mpegpipe h264 hevc obu av1 vvc gif apng png_pipe jpeg_pipe jpegls_pipe bmp_pipe "
    "webp_pipe webp tiff_pipe mjpeg aac ac3 flac mp3 wav"
)
_ONE_FILE = {"format_whitelist": _FORMATS.replace(" ", ","), "protocol_whitelist": "file"}
"""Without playlists, which a video may be in disguise: they name other files, or machines."""

_ODD_RATE = Fraction(1, 50)
"""The share by which the average rate may miss the nominal one: frames that were dropped."""


class UnreadableVideoError(ValueError):
    """The file is no video, has no frames, is damaged or too large."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width: pixels, as stored; a video that is shown rotated has its frames rotated.
        height: pixels.
        fps: frames a second, exact; the average if the frame rate varies.
        num_frames: packets that are shown, counted, because fragmented files do not store it.
        duration: seconds that are shown.
        codec: name of the codec, such as "h264".
        pixel_format: FFmpeg's name, such as "yuv420p".
        declared_frames: as the header says of what is shown, or 0; more than `num_frames` if the
            file was cut off.
        declared_duration: seconds, as the header says of a file that is all video, or 0.
    """

    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration: float
    codec: str
    pixel_format: str = ""
    declared_frames: int = 0
    declared_duration: float = 0.0


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and find its video; FFmpeg's errors become `UnreadableVideoError`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such video", str(path))
    if not path.is_file():  # opening a pipe would wait for its other end
        raise UnreadableVideoError(f"{path} is no ordinary file")
    try:
        # titles need not be UTF-8, and nobody reads them here; without `file:` FFmpeg takes some
        # names for those of other files, or of machines
        with av.open(f"file:{path}", options=_ONE_FILE, metadata_errors="replace") as container:
            yield container, _video_stream(path, container)
    except av.FFmpegError as error:
        raise UnreadableVideoError(f"{path} cannot be read as a video: {error.strerror}") from error


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The first video that can be decoded and is no cover picture, with a limit on its size."""
    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not moving:
        raise UnreadableVideoError(f"{path} contains no video")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise UnreadableVideoError(f"{path} has a video in a format that FFmpeg does not know")
    stream = known[0]
    if stream.width * stream.height > MOST_PIXELS:
        raise UnreadableVideoError(
            f"{path} declares frames of {stream.width}x{stream.height}; "
            f"at most {MOST_PIXELS} pixels (7680x4320) are read"
        )
    # what the header says can be exceeded later on: then the decoder refuses
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return stream


def read_frames(path: str | os.PathLike[str], every: int = 1) -> Iterator[npt.NDArray[np.uint8]]:
    """Read a video; memory does not depend on its length.

    The partial file of a video in progress, or of a killed process, gives the frames so far.

    Args:
        path: any video file that FFmpeg reads.
        every: give only the frames 0, `every`, 2 * `every`, ...

    Yields:
        uint8 RGB `[H, W, 3]`.

    Raises:
        UnreadableVideoError: the file is no video or has no frames; or it is damaged, after the
            frames before that place.
    """
    for _, image in read_timed_frames(path, every):
        yield image


def read_timed_frames(
    path: str | os.PathLike[str], every: int = 1
) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """Read a video as `read_frames` does, each frame with the second at which it is shown.

    Frames of one rate are shown at index / rate; where the rate varies, the file's times differ.
    The first is shown at 0, and times never fall.
    """
    if every < 1:
        raise ValueError(f"`every` ({every}) must be at least 1")
    converter = VideoReformatter()
    with _open(path) as (container, stream):
        index, start, last = -1, None, 0.0
        rate = stream.average_rate or stream.guessed_rate or Fraction(1)
        for index, frame in enumerate(container.decode(stream)):
            shown = frame.time if frame.time is not None else float(index / rate)
            start = shown if start is None else start
            last = max(last, shown - start)
            if index % every == 0:
                yield last, _upright(to_rgb(converter, frame), frame.rotation)
        if index < 0:
            raise UnreadableVideoError(f"{path} contains no frames")


def _upright(image: npt.NDArray[np.uint8], degrees: int) -> npt.NDArray[np.uint8]:
    """Turn a frame as its file asks for, in quarter turns against the clock."""
    turns = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video; reads the file once, without decoding it.

    Packets that an edit list leaves out, as after cutting without encoding, do not count.

    Raises:
        UnreadableVideoError: the file is no video or has no frames.
    """
    with _open(path) as (container, stream):
        num_frames, hidden, start, end = 0, 0, None, 0
        for packet in container.demux(stream):
            if packet.size and packet.is_discard:
                hidden += 1
            elif packet.size:
                num_frames += 1
                shown = packet.pts or 0
                start = shown if start is None else min(start, shown)
                end = max(end, shown + (packet.duration or 0))
        fps = _rate(stream)
        time_base = stream.time_base
        if start is None or not fps or not time_base:
            raise UnreadableVideoError(f"{path} contains no frames")
        return VideoInfo(
            width=stream.width,
            height=stream.height,
            fps=fps,
            num_frames=num_frames,
            duration=float((end - start) * time_base),
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
            declared_frames=max(0, stream.frames - hidden),
            declared_duration=(container.duration or 0) / av.time_base
            if len(container.streams) == 1
            else 0.0,
        )


def _rate(stream: VideoStream) -> Fraction | None:
    """The average rate; the nominal one where just a few frames are missing."""
    average, nominal = stream.average_rate, stream.guessed_rate
    if not average or not nominal:
        return average or nominal
    return nominal if abs(average - nominal) <= _ODD_RATE * nominal else average
