"""Small pictures of a video's latent frames, many on a sheet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext

from tethercache.rollout.plan import first_frame
from tethercache.video.reader import read_frames

WIDTH = 84
COLUMNS, ROWS = 12, 12
_QUALITY = 4  # of FFmpeg's, from 2 (best) to 31


@dataclass(frozen=True)
class Sheets:
    """Pictures of latent frames, row by row.

    Attributes:
        width: of a picture, in pixels.
        height: of a picture.
        frames: which latent frames they show, in this order.
        jpegs: sheets of `COLUMNS` x `ROWS` pictures each.
    """

    width: int
    height: int
    frames: tuple[int, ...]
    jpegs: tuple[bytes, ...]


def sheets(video: str | os.PathLike[str], latent_frames: Sequence[int]) -> Sheets:
    """A picture of each of some latent frames, as far as the video is made.

    Args:
        video: the mp4, finished or not.
        latent_frames: which, in the order of time.

    Raises:
        UnreadableVideoError: it is no video.
        FileNotFoundError: there is none.
    """
    jpegs, frames, tiles, shape = [], [], [], (2, 2)
    for latent, picture in _pictures(video, latent_frames):
        frames.append(latent)
        tiles.append(_small(picture))
        shape = tiles[-1].shape[:2]
        if len(tiles) == COLUMNS * ROWS:
            jpegs.append(_sheet(tiles))
            tiles = []
    if tiles:
        jpegs.append(_sheet(tiles))
    return Sheets(shape[1], shape[0], tuple(frames), tuple(jpegs))


def _pictures(
    video: str | os.PathLike[str], latent_frames: Sequence[int]
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The third of the frames that each latent frame decodes to, or what there is before it.

    The first one decodes to one frame, and the end of a video may be cut off.
    """
    wanted = iter(latent_frames)
    latent, latest = next(wanted, None), None
    for number, frame in enumerate(read_frames(video)):
        if latent is None:
            return
        if number < first_frame(latent):
            continue
        latest = frame
        if number == first_frame(latent) + (2 if latent else 0):
            yield latent, frame
            latent, latest = next(wanted, None), None
    if latent is not None and latest is not None:
        yield latent, latest


def _small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """As wide as `WIDTH` at most; both sides even."""
    high, wide, _ = picture.shape
    width = min(WIDTH, wide) // 2 * 2
    height = max(2, round(high * width / wide / 2) * 2)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return np.asarray(scaled.to_ndarray(), dtype=np.uint8)


def _sheet(tiles: list[npt.NDArray[np.uint8]]) -> bytes:
    """A JPEG of pictures of one size."""
    high, wide, _ = tiles[0].shape
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.full((rows * high, COLUMNS * wide, 3), 128, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // COLUMNS * high, i % COLUMNS * wide
        sheet[y : y + high, x : x + wide] = tile
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = sheet.shape[1], sheet.shape[0]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.options = {"qmin": str(_QUALITY), "qmax": str(_QUALITY)}
    frame = av.VideoFrame.from_ndarray(sheet, format="rgb24")
    packets = [*encoder.encode(frame.reformat(format="yuvj420p")), *encoder.encode(None)]
    return b"".join(map(bytes, packets))
