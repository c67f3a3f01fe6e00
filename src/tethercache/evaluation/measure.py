"""A video file to its measurements, in one pass and in constant memory."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2

from tethercache.arguments import as_path
from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.images import file_hash, probe, timed_frames
from tethercache.evaluation.metrics.frame import Image
from tethercache.evaluation.options import Options
from tethercache.evaluation.recording import FEWEST_FRAMES, Pace, Recording
from tethercache.evaluation.result import VideoResult
from tethercache.text import reason
from tethercache.video import UnreadableVideoError, VideoInfo

_THUMBNAIL_WIDTH = 320


class SkippedVideoError(ValueError):
    """A file that cannot be evaluated; the message says why."""


def measure_video(path: Path, options: Options | None = None) -> VideoResult:
    """Evaluate one video.

    Raises:
        ValueError: `path` is no path.
        SkippedVideoError: it cannot be evaluated; the message is the reason.
    """
    options, path = options or Options(), as_path("path", path)
    try:
        if path.is_file() and not path.stat().st_size:
            raise SkippedVideoError("is empty")
        digest = file_hash(path)
        info = probe(path, options.image_fps)
        _check(path, info)
        return _measure(path, digest, info, options)
    except UnreadableVideoError as error:
        raise SkippedVideoError(_without_path(error, path)) from error
    except OSError as error:
        raise SkippedVideoError(reason(error)) from error


def _without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path} ")


def _check(path: Path, info: VideoInfo) -> None:
    if path.name.endswith(".partial.mp4"):
        raise SkippedVideoError("is unfinished (.partial.mp4)")
    if info.declared_frames > info.num_frames:
        raise SkippedVideoError(
            f"is truncated: {info.num_frames} of {info.declared_frames} frames are there"
        )
    if info.declared_duration > info.duration + max(0.5, 2 / float(info.fps)):
        raise SkippedVideoError(
            f"is truncated: {info.duration:.1f} of {info.declared_duration:.1f} s are there"
        )
    if info.num_frames < FEWEST_FRAMES:
        frames = "1 frame" if info.num_frames == 1 else f"{info.num_frames} frames"
        raise SkippedVideoError(
            f"has {frames}; a start and an end to compare need at least {FEWEST_FRAMES}"
        )


def _measure(path: Path, digest: str, info: VideoInfo, options: Options) -> VideoResult:
    recording = Recording(options.metrics(), options.every)
    thumbnails: list[str] = []
    for index, (time, rgb) in enumerate(timed_frames(path, options.image_fps)):
        if recording.shape not in (None, rgb.shape):
            raise SkippedVideoError(f"changes its size at {time:.1f} s")
        recording.add(time, rgb)
        last = rgb
        if index in (0, info.num_frames // 2):
            thumbnails.append(_thumbnail(rgb))
    thumbnails.append(_thumbnail(last))
    pace = Pace.of(recording.times)
    duration = float(recording.times[-1]) + pace.gap
    if info.duration > duration + max(0.5, 2 * pace.gap):
        raise SkippedVideoError(
            f"is damaged: {duration:.1f} of {info.duration:.1f} s can be decoded"
        )
    found = recording.summarise(duration, pace.varies)
    if not found.can_tell:
        raise SkippedVideoError(
            f"is too short: {duration:.2g} s sampled every {options.every} frames"
        )
    height, width, _ = last.shape
    return VideoResult(
        name=path.name,
        path=str(path),
        sha256=digest,
        video={
            "width": width,
            "height": height,
            "fps": float(info.fps),
            "frames": len(recording.times),
            "seconds": duration,
            "codec": info.codec,
            "pixel_format": info.pixel_format,
        },
        warnings=[*_warnings(duration), *pace.warnings()],
        thumbnails=thumbnails,
        **found.as_dict(),
    )


def _warnings(duration: float) -> list[str]:
    warnings = []
    if duration < 2 * DEFAULT_PROTOCOL.seconds - 0.05:
        warnings.append(
            f"is only {duration:.1f} s long: start and end are {duration / 2:.1f} s each, "
            f"not {DEFAULT_PROTOCOL.seconds:g}"
        )
    return warnings


def _thumbnail(rgb: Image) -> str:
    height, width = rgb.shape[:2]
    scale = min(1.0, _THUMBNAIL_WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return base64.b64encode(encoded.tobytes()).decode()
