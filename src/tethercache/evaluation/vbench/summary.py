"""What is said about a run: its totals, its drift, and the content of results.json."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from tethercache.evaluation.drift import PROTOCOLS, start_end, statistics
from tethercache.evaluation.metrics.metric import Series
from tethercache.evaluation.vbench.aggregate import (
    DEFAULT,
    DEVELOPER,
    ClipScore,
    Run,
    Weights,
    aggregate,
)
from tethercache.evaluation.vbench.dimensions import (
    CUSTOM_CLIP_SECONDS,
    DIMENSIONS,
    PERCENT,
)

SCHEMA_VERSION = 1


def quality_drift(run: Run, dimension: str = "imaging_quality") -> dict[str, Any]:
    """Start - end of a quality over the clips of each video, under each named protocol.

    Positive: the quality fell. On VBench's scale times 100. A clip belongs to a stretch if its
    middle does. Needs at least two clips a video.
    """
    videos = _by_video(run.clips.get(dimension, ()))
    standard = any(DIMENSIONS[name].group == "semantic" for name in run.clips)
    seconds = DIMENSIONS[dimension].clip_seconds if standard else CUSTOM_CLIP_SECONDS
    factor = 1 if dimension in PERCENT else 100
    made: dict[str, Any] = {"dimension": dimension, "clip_seconds": seconds, "protocols": {}}
    for protocol in PROTOCOLS.values():
        if protocol.seconds and protocol.seconds < seconds:
            continue  # its stretches are shorter than the clips
        values = {}
        for video, clips in videos.items():
            count = len(clips)
            series = Series(
                indices=np.arange(count),
                times=(np.arange(count, dtype=np.float64) + 0.5) * seconds,
                values=np.array([clip.score * factor for clip in clips], dtype=np.float64),
                duration=float(count * seconds),
            )
            value = start_end(series, protocol)
            if value is not None and count > 1:
                values[video] = value
        if values:
            made["protocols"][protocol.name] = {
                **dataclasses.asdict(statistics(list(values.values()))),
                "videos": values,
            }
    return made


def _by_video(clips: Iterable[ClipScore]) -> dict[str, list[ClipScore]]:
    videos: defaultdict[str, list[ClipScore]] = defaultdict(list)
    for clip in clips:
        videos[clip.video].append(clip)
    return {name: sorted(videos[name], key=lambda clip: clip.clip) for name in sorted(videos)}


def describe(weights: Weights | None) -> str:
    """How a consistency was made, and by which of VBench's ways."""
    if weights is None:
        return "weights not told by the numbers"
    text = f"{weights.in_clip:.3g} inside clips + {weights.clip_to_clip:.3g} between clips"
    ways = {DEVELOPER: "VBench with --dev_flag", DEFAULT: "VBench without --dev_flag"}
    return f"{text} ({ways.get(weights, 'weights of their own')})"


def as_json(run: Run) -> dict[str, Any]:
    """The content of results.json for the suite `vbench-long`."""
    made = aggregate(run)
    dimensions: dict[str, dict[str, Any]] = {}
    for name, score in made.scores.items():
        clips = run.clips.get(name, ())
        dimensions[name] = {
            "score": score,
            "normalised": made.normalised[name],
            "clips": len(clips),
            "videos": len({clip.video for clip in clips}),
        }
        if name in made.clip_to_clip:
            dimensions[name]["clip_to_clip"] = made.clip_to_clip[name]
        if name in run.weights:
            weights = run.weights[name]
            dimensions[name]["weights"] = weights and dataclasses.asdict(weights)
            dimensions[name]["made_of"] = describe(weights)
    drift = {
        name: quality_drift(run, name)
        for name in ("imaging_quality", "aesthetic_quality")
        if run.clips.get(name)
    }
    return {
        "schema": "tethercache.evaluation",
        "schema_version": SCHEMA_VERSION,
        "suite": "vbench-long",
        "partial": made.is_partial,
        "quality": made.quality,
        "semantic": made.semantic,
        "total": made.total,
        "dimensions": dimensions,
        "missing": dict(made.missing),
        "quality_drift": drift,
        "files": list(run.files),
        "problems": list(run.problems),
        "notes": list(run.notes),
    }
