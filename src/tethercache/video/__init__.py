"""Latents to a finished video: streaming decode, an mp4 that plays while it grows, its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.files import DiskFullError
from tethercache.lazy import exports
from tethercache.video.reader import (
    UnreadableVideoError,
    VideoInfo,
    probe,
    read_frames,
    read_timed_frames,
)
from tethercache.video.sidecar import (
    FrameHasher,
    Sidecar,
    SidecarError,
    command_line,
    read_sidecar,
    shareable,
    sidecar_path,
    write_sidecar,
)
from tethercache.video.target import check_target
from tethercache.video.writer import LostFramesError, Position, VideoWriter

if TYPE_CHECKING:
    from tethercache.video.decode import (
        SlicedDecoder,
        StreamingDecoder,
        TileSize,
        channels_last,
        tiles_of,
        to_uint8,
    )
    from tethercache.video.overlap import Decoder, decoded, first, overlapped
    from tethercache.video.preview import PreviewDecoder

__all__ = [
    "Decoder",
    "DiskFullError",
    "FrameHasher",
    "LostFramesError",
    "Position",
    "PreviewDecoder",
    "Sidecar",
    "SidecarError",
    "SlicedDecoder",
    "StreamingDecoder",
    "TileSize",
    "UnreadableVideoError",
    "VideoInfo",
    "VideoWriter",
    "channels_last",
    "check_target",
    "command_line",
    "decoded",
    "first",
    "overlapped",
    "probe",
    "read_frames",
    "read_sidecar",
    "read_timed_frames",
    "shareable",
    "sidecar_path",
    "tiles_of",
    "to_uint8",
    "write_sidecar",
]

# what needs torch waits until it is used
__getattr__ = exports(
    __name__,
    {
        "Decoder": "overlap",
        "PreviewDecoder": "preview",
        "SlicedDecoder": "decode",
        "StreamingDecoder": "decode",
        "TileSize": "decode",
        "channels_last": "decode",
        "decoded": "overlap",
        "first": "overlap",
        "overlapped": "overlap",
        "tiles_of": "decode",
        "to_uint8": "decode",
    },
)
