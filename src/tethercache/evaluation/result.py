"""What is known about one video, or why nothing is; and how its numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


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


def rounded(value: Any, digits: int = 6) -> Any:
    """JSON-ready numbers: six significant digits, and None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value
