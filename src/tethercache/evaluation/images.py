"""Folders of images as videos: the frames of a video, one file each, in the order of their names.

The functions take videos, too, so that whoever measures need not know what it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from tethercache.evaluation.metrics.frame import Image
from tethercache.files import sha256
from tethercache.video import UnreadableVideoError, VideoInfo, read_frames, read_timed_frames
from tethercache.video import probe as probe_video

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
FEWEST_IMAGES = 8
"""A folder of fewer, found among others, is no video: it may hold a poster or thumbnails."""


def image_files(folder: Path) -> list[Path]:
    """The images of a folder; `frame_2` comes before `frame_10`."""
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(images, key=lambda path: (_natural(path.name), path.name))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(not p[0].isdecimal(), int(p) if p[0].isdecimal() else 0, p.lower()) for p in parts]


def probe(path: Path, image_fps: float) -> VideoInfo:
    """Describe a video, or a folder of images, of which only the first is read.

    Raises:
        UnreadableVideoError: it is no video, or has no frames.
    """
    if not path.is_dir():
        return probe_video(path)
    files = image_files(path)
    if not files:
        raise UnreadableVideoError(f"{path} contains no images")
    first = _probe_image(files[0])
    fps = Fraction(image_fps).limit_denominator(1001)
    return VideoInfo(
        width=first.width,
        height=first.height,
        fps=fps,
        num_frames=len(files),
        duration=float(len(files) / fps),
        codec=f"images ({first.codec})",
        pixel_format=first.pixel_format,
    )


def timed_frames(path: Path, image_fps: float) -> Iterator[tuple[float, Image]]:
    """The frames of either, each with its second.

    Raises:
        UnreadableVideoError: it is damaged, after the frames before that place.
    """
    if not path.is_dir():
        yield from read_timed_frames(path)
        return
    for index, file in enumerate(image_files(path)):
        _require_file(file)
        yield index / image_fps, next(iter(read_frames(file)))


def file_hash(path: Path) -> str:
    """sha256 of a file; of a folder, of the names and contents of its images."""
    if not path.is_dir():
        return sha256(path)
    whole = hashlib.sha256()
    for file in image_files(path):
        _require_file(file)
        whole.update(f"{sha256(file)} {file.name}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _probe_image(file: Path) -> VideoInfo:
    _require_file(file)
    return probe_video(file)


def _require_file(file: Path) -> None:
    """Opening a pipe would wait for its other end."""
    if not file.is_file():
        raise UnreadableVideoError(f"{file.name} is no ordinary file")
