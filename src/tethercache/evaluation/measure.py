"""A video file to its measurements, in one pass and in constant memory."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from tethercache.arguments import as_path
from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.images import file_hash, probe, timed_frames
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.frame import Image
from tethercache.evaluation.metrics.metric import Metric
from tethercache.evaluation.recording import FEWEST_FRAMES, Pace, Recording
from tethercache.text import reason
from tethercache.video import UnreadableVideoError, VideoInfo

MEASURE_VERSION = 2
"""Raised when what is computed around the metrics changes, so that old results are not reused."""

_THUMBNAIL_WIDTH = 320


class SkippedVideoError(ValueError):
    """A file that cannot be evaluated; the message says why."""


@dataclass(frozen=True)
class Options:
    """What may be chosen about the measurement.

    Attributes:
        every: measure colour, detail and motion in every n-th frame. Cuts, flicker and frozen
            frames always look at all.
        chunk: pixel frames of a generated chunk, for the flicker at its joins.
        first_chunk: pixel frames of the first chunk.
        embed: also measure the metrics that need the extra `embed`.
        image_fps: frames a second of folders of images, which do not say it.
    """

    every: int = 2
    chunk: int = 12
    first_chunk: int = 9
    embed: bool = False
    image_fps: float = 16.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"`every` ({self.every}) must be at least 1")
        if not 0.1 <= self.image_fps <= 1000:  # also what is no number
            raise ValueError(f"`image_fps` ({self.image_fps}) must be between 0.1 and 1000")
        self.metrics()

    def metrics(self) -> dict[str, Metric]:
        """The metrics to measure, by name."""
        settings = {"chunk_boundary_flicker": f":chunk={self.chunk},first={self.first_chunk}"}
        return {
            name: METRICS.parse(name + settings.get(name, ""))
            for name in METRICS
            if METRICS[name].needs != "embed" or self.embed
        }

    def key(self) -> str:
        """Names these options and the versions of everything that is measured."""
        versions = {
            METRICS.spec(metric, full=True): metric.version for metric in self.metrics().values()
        }
        settings = [MEASURE_VERSION, self.every, self.image_fps, versions]
        return json.dumps(settings, sort_keys=True)


@dataclass(frozen=True)
class VideoResult:
    """Everything that is known about one video; the dataclass is the JSON, but for thumbnails.

    Attributes:
        name: of the file; videos of one name are a pair.
        path: as it was given.
        sha256: of the file.
        video: width, height, fps, frames, seconds, codec and pixel format.
        verdict: `stable`, `watch` or `drifting`.
        components: the verdict of each symptom.
        reasons: what led to the verdict.
        notes: what must be known beside it: edits, stillness.
        warnings: what is unusual about the file.
        metrics: one number a metric; None where it cannot be measured. Changes are sizes.
        signed: the changes with their signs, end - start.
        start: level of each metric at the start.
        end: level of each metric at the end.
        start_end: the changes under each named protocol.
        vde: video drift error of the metrics that have a level.
        onset: second from which on a component is beyond its threshold for drift, or None.
        curves: a value a second; changes are against the start.
        events: times of cuts and jumps, seconds.
        edits: cuts, crossfades, fades and flashes: kind, begin and end in seconds.
        worst: of each symptom of the verdict, the change in the window that is furthest from the
            start of its shot, with its sign; begin and end of the window, and by how much the
            thresholds are multiplied there.
        thumbnails: first, middle and last frame, JPEG in base64.
    """

    name: str
    path: str
    sha256: str
    video: dict[str, Any]
    verdict: str
    components: dict[str, str]
    reasons: list[str]
    notes: list[str]
    warnings: list[str]
    metrics: dict[str, float | None]
    signed: dict[str, float | None]
    start: dict[str, float | None]
    end: dict[str, float | None]
    start_end: dict[str, dict[str, float | None]]
    vde: dict[str, float | None]
    onset: dict[str, float | None]
    curves: dict[str, list[float | None]]
    events: dict[str, list[float]]
    edits: list[dict[str, float | str]]
    worst: dict[str, dict[str, float | None]]
    thumbnails: list[str] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Skipped:
    """A file that was not evaluated."""

    name: str
    path: str
    reason: str


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


def rounded(value: Any, digits: int = 6) -> Any:
    """JSON-ready numbers: six significant digits, and None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value
