"""Video files that are unusual or broken, by what is wrong with them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.evaluation.scenes import FPS, frames


def encode(
    path: Path,
    *,
    count: int = 40,
    pixel_format: str = "yuv420p",
    crop: tuple[int, int] = (64, 96),
    variable: bool = False,
    dropped: tuple[int, ...] = (),
) -> Path:
    """An ordinary H.264 file with its index at the start."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = crop
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 160)
        now = 0
        for index, rgb in enumerate(frames("none", count / FPS)):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(rgb[: crop[0], : crop[1]]), "rgb24"
            )
            frame.pts, frame.time_base = now, Fraction(1, 160)
            now += 30 if variable and index % 3 == 2 else 10
            if index not in dropped:
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, begin: float) -> Path:
    """Packets from a key frame before `begin` on; an edit list hides what is before `begin`."""
    with av.open(str(source)) as read, av.open(str(path), "w") as container:
        old = read.streams.video[0]
        new = container.add_stream_from_template(old)
        assert old.time_base is not None
        shift = round(begin / old.time_base)
        for packet in read.demux(old):
            if packet.dts is not None and packet.pts is not None:
                packet.stream = new
                packet.dts, packet.pts = packet.dts - shift, packet.pts - shift
                container.mux(packet)
    return path


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate = 48000
        container.mux([*stream.encode(silence), *stream.encode(None)])
    return path


def truncated(path: Path) -> Path:
    data = encode(path, count=160).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("this is no video " * 100)
    return path
