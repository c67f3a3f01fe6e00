"""Videos and images in the formats that people have, damaged; and texts that pass for such."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import cv2
import numpy as np
import numpy.typing as npt

from fuzz import mutate
from fuzz.kind import Kind
from tethercache.evaluation.measure import SkippedVideoError, measure_video
from tethercache.evaluation.options import Options
from tethercache.models import Settings
from tethercache.policies import POLICIES
from tethercache.render.prefix import plan_with_prefix, read_prefix
from tethercache.render.recording import unnamed
from tethercache.request import VideoRequest
from tethercache.video import VideoWriter, read_frames

_HEIGHT, _WIDTH, _FRAMES = 32, 48, 12
_KINDS = (  # suffix, codec, pixel format
    ("mp4", "libx264", "yuv420p"),
    ("mov", "prores_ks", "yuv422p10le"),
    ("mkv", "ffv1", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("gif", "gif", "rgb8"),
    ("mpg", "mpeg2video", "yuv420p"),
)
_OTHER = "other.mp4"
_TEXTS = (
    f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{_OTHER}\n#EXT-X-ENDLIST\n",
    f"#EXTM3U\n#EXTINF:1,\nfile://{{folder}}/{_OTHER}\n#EXT-X-ENDLIST\n",
    f"ffconcat version 1.0\nfile {_OTHER}\n",
    f"ffconcat version 1.0\nfile '{{folder}}/{_OTHER}'\nduration 1\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period>"
    f"<AdaptationSet><Representation id='a'><BaseURL>{_OTHER}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    ";FFMETADATA1\n[CHAPTER]\n",
    "WEBVTT\n\n00:00.000 --> 00:01.000\na\n",
)


def _frames(count: int) -> list[npt.NDArray[np.uint8]]:
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    return [
        np.stack([rows * 7 + 9 * i, columns * 5, (rows + columns) * 3 + i], -1).astype(np.uint8)
        for i in range(count)
    ]


def _encode(path: Path, codec: str, pixel_format: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(16))
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, pixel_format
        stream.codec_context.thread_count = 1
        for rgb in _frames(_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


class Videos(Kind):
    """Videos as `--prefix`, as what `eval` measures, and as what a run left that broke off."""

    name = "videos"
    share = 2
    most = 4000

    def prepare(self) -> None:
        """Encode a small video in every format."""
        self._files = [
            (suffix, _encode(Path(f"base.{suffix}"), codec, pixels))
            for suffix, codec, pixels in _KINDS
        ]
        writer = VideoWriter("growing.mp4", width=_WIDTH, height=_HEIGHT, fps=16)
        writer.write(np.stack(_frames(_FRAMES)))
        self._files.append(("mp4", Path("growing.partial.mp4").read_bytes()))
        writer.close()
        self._files.append(("mp4", Path("growing.mp4").read_bytes()))
        Path(_OTHER).write_bytes(Path("growing.mp4").read_bytes())
        self._request = VideoRequest("a", latent_frames=30)
        self._policy = POLICIES.parse("tethercache")
        self._settings = Settings(height=_HEIGHT, width=_WIDTH)

    def make(self, rng: Random) -> bytes:
        """The suffix of its name, and the content."""
        suffix, content = rng.choice(self._files)
        if rng.random() < 0.1:
            text = rng.choice(_TEXTS).encode()
            content = mutate.damaged(text, rng) if rng.random() < 0.5 else text
        elif content[4:8] == b"ftyp" and rng.random() < 0.6:
            content = _other_boxes(content, rng)
        else:
            content = mutate.damaged(content, rng, 1000)
        if rng.random() < 0.1:
            suffix = rng.choice(("mp4", "gif", "png", "ts", "m3u8", "txt", "mp3", "sdp"))
        return suffix.encode() + b"\n" + content

    def take(self, content: bytes) -> None:
        """Start from it, measure it, and complete it as if it were ours."""
        suffix, _, video = content.partition(b"\n")
        path = Path(f"video.{suffix.decode()}")
        video = video.replace(b"{folder}", str(Path.cwd()).encode())
        path.write_bytes(video)
        Path("ours.partial.mp4").write_bytes(video)
        try:
            assert unnamed("ours.mp4") is None  # it has no record
            _both(
                lambda: plan_with_prefix(
                    self._request, read_prefix(path), self._settings, self._policy
                ),
                lambda: _measure(path),
            )
            assert _OTHER.encode() not in video, "frames of another file"
        finally:
            path.unlink()
            Path("ours.partial.mp4").unlink(missing_ok=True)


def _both(*functions: object) -> None:
    """Call all, and raise the last refusal."""
    refusal: ValueError | None = None
    for function in functions:
        try:
            function()  # type: ignore[operator]
        except ValueError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def _measure(path: Path) -> None:
    try:
        measure_video(path, Options())
    except SkippedVideoError as error:
        raise ValueError(str(error)) from error


def _other_boxes(content: bytes, rng: Random) -> bytes:
    """An mp4 one of whose boxes is damaged, taken out, doubled, or of another size or kind."""
    boxes = _boxes(content, 0, len(content))
    start, size = rng.choice(boxes)
    box = content[start : start + size]
    kind = rng.random()
    if kind < 0.35:
        head, body = box[:8], mutate.damaged(box[8:], rng, 200)
        box = head + body
    elif kind < 0.6 and len(box) > 12:
        at = rng.randrange(8, len(box) - 3)
        number = rng.choice(mutate.NUMBERS) & 0xFFFFFFFF
        box = box[:at] + number.to_bytes(4, "big") + box[at + 4 :]
    elif kind < 0.7:
        box = b""
    elif kind < 0.8:
        box += box
    elif kind < 0.9:
        box = struct.pack(">I", rng.choice(mutate.NUMBERS) & 0xFFFFFFFF) + box[4:]
    else:
        box = box[:4] + rng.choice((b"free", b"moov", b"elst", b"stsd", b"avcC", b"url ")) + box[8:]
    return content[:start] + box + content[start + size :]


def _boxes(content: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """Where the boxes of an mp4 are, those inside others too."""
    found = []
    while start + 8 <= end:
        size, kind = (
            int.from_bytes(content[start : start + 4], "big"),
            content[start + 4 : start + 8],
        )
        if size < 8 or start + size > end:
            break
        found.append((start, size))
        if kind in (
            b"moov",
            b"trak",
            b"mdia",
            b"minf",
            b"stbl",
            b"edts",
            b"moof",
            b"traf",
            b"mvex",
        ):
            found += _boxes(content, start + 8, start + size)
        elif kind == b"stsd":
            found += _boxes(content, start + 16, start + size)
        elif kind == b"avc1":
            found += _boxes(content, start + 86, start + size)
        start += size
    return found


class Images(Kind):
    """Pictures to start from, and as the first frame of a folder of images."""

    name = "images"
    share = 2
    most = 4000
    _SUFFIXES = ("png", "jpg", "bmp", "webp", "tiff", "gif")

    def prepare(self) -> None:
        """Encode a picture in every format, and a folder of eight."""
        picture = _frames(1)[0]
        self._files = []
        for suffix in self._SUFFIXES:
            encoded = (
                Path("base.gif").read_bytes()
                if suffix == "gif" and _encode(Path("base.gif"), "gif", "rgb8")
                else cv2.imencode(f".{suffix}", picture)[1].tobytes()
            )
            self._files.append((suffix, encoded))
        Path("frames").mkdir()
        for i, frame in enumerate(_frames(8)):
            cv2.imwrite(f"frames/{i}.png", frame)

    def make(self, rng: Random) -> bytes:
        """The suffix of its name, and the content."""
        suffix, content = rng.choice(self._files)
        content = mutate.damaged(content, rng, 120)
        if rng.random() < 0.2:
            size = struct.pack(
                rng.choice((">II", "<HH", ">HH")), *rng.choices((1, 9999, 65535), k=2)
            )
            at = rng.randrange(30)
            content = content[:at] + size + content[at + len(size) :]
        if rng.random() < 0.1:
            suffix = rng.choice(self._SUFFIXES)
        return suffix.encode() + b"\n" + content

    def take(self, content: bytes) -> None:
        """Start from it, and measure a folder of which it is one."""
        suffix, _, picture = content.partition(b"\n")
        path = Path(f"frames/00.{suffix.decode()}")
        path.write_bytes(picture)
        try:
            _both(lambda: _read(path), lambda: _measure(Path("frames")))
        finally:
            path.unlink()


def _read(path: Path) -> None:
    read_prefix(path)
    for _ in read_frames(path):
        pass
