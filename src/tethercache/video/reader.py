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
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from tethercache.video.colour import to_rgb


class UnreadableVideoError(ValueError):
    """The file is no video, has no frames or is damaged."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width: pixels.
        height: pixels.
        fps: frames a second, exact; the average if the frame rate varies.
        num_frames: counted, because fragmented files do not store it.
        duration: seconds.
        codec: name of the codec, such as "h264".
        pixel_format: FFmpeg's name, such as "yuv420p".
        declared_frames: as the header says, or 0; more than `num_frames` if the file was cut off.
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
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideoError(f"{path} contains no video")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise UnreadableVideoError(f"{path} cannot be read as a video: {error.strerror}") from error


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
    """
    if every < 1:
        raise ValueError(f"`every` ({every}) must be at least 1")
    converter = VideoReformatter()
    with _open(path) as (container, stream):
        index, start = -1, None
        rate = stream.average_rate or stream.guessed_rate or Fraction(1)
        for index, frame in enumerate(container.decode(stream)):
            shown = frame.time if frame.time is not None else float(index / rate)
            start = shown if start is None else start
            if index % every == 0:
                yield shown - start, to_rgb(converter, frame)
        if index < 0:
            raise UnreadableVideoError(f"{path} contains no frames")


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video; reads the file once, without decoding it.

    Raises:
        UnreadableVideoError: the file is no video or has no frames.
    """
    with _open(path) as (container, stream):
        num_frames, end = 0, 0
        for packet in container.demux(stream):
            if packet.size:
                num_frames += 1
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
        fps = stream.average_rate or stream.guessed_rate
        time_base = stream.time_base
        if not num_frames or not fps or not time_base:
            raise UnreadableVideoError(f"{path} contains no frames")
        return VideoInfo(
            width=stream.width,
            height=stream.height,
            fps=fps,
            num_frames=num_frames,
            duration=float((end - (stream.start_time or 0)) * time_base),
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "",
            declared_frames=stream.frames,
            declared_duration=(container.duration or 0) / av.time_base
            if len(container.streams) == 1
            else 0.0,
        )
