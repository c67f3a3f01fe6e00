"""VBench-Long's arithmetic: consistency, fusion, means, normalisation and totals.

Where VBench's script counts a missing dimension as 0, ours makes no total.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from tethercache.evaluation.vbench.dimensions import (
    DIMENSIONS,
    FUSED,
    PERCENT,
    QUALITY_WEIGHT,
    SEMANTIC_WEIGHT,
)


@dataclass(frozen=True)
class Weights:
    """How a consistency is made of that inside clips and that between them."""

    in_clip: float
    clip_to_clip: float


DEVELOPER = Weights(0.5, 0.5)
"""VBench with `--dev_flag`, which its documents use."""
DEFAULT = Weights(1.0, 0.0)
"""VBench without it."""


@dataclass(frozen=True)
class ClipScore:
    """The score of one clip in one dimension.

    Attributes:
        video: name of the long video.
        clip: number of the clip in it.
        score: as VBench gives it; for the two consistencies that inside the clip.
        clip_to_clip: for the two consistencies, that of the video's clips among each other.
    """

    video: str
    clip: int
    score: float
    clip_to_clip: float | None = None


@dataclass(frozen=True)
class Run:
    """The scores of a run, from files or fresh.

    Attributes:
        clips: scores by dimension.
        reported: the score that the files themselves state, of which VBench makes its totals.
        weights: of the consistencies; None where the files do not tell them.
        files: where they come from.
        problems: what could not be read or does not fit together.
        notes: what the reader must know beside it.
        absent: why dimensions were not scored.
    """

    clips: Mapping[str, Sequence[ClipScore]]
    reported: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, Weights | None] = field(default_factory=dict)
    files: Sequence[str] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """Scores and totals of a run.

    Attributes:
        scores: of each dimension, on VBench's scale: as its files state it, else the mean over
            videos of the means over their clips.
        normalised: the same between VBench's minimum and maximum.
        missing: dimensions without a score, and why.
        quality: weighted mean of the 7 quality dimensions; None if one is missing.
        semantic: mean of the 9 semantic dimensions; None if one is missing.
        total: of both; None if one of them is.
        clip_to_clip: raw similarity between clips, which the fused score hides.
    """

    scores: Mapping[str, float]
    normalised: Mapping[str, float]
    missing: Mapping[str, str]
    quality: float | None
    semantic: float | None
    total: float | None
    clip_to_clip: Mapping[str, float]

    @property
    def is_partial(self) -> bool:
        """Whether dimensions are missing, so that there is no total."""
        return bool(self.missing)


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, list[float]]:
    text = files("tethercache.evaluation.vbench").joinpath("tables.json").read_text()
    tables: Mapping[str, list[float]] = json.loads(text)
    return tables


def map_clip_to_clip(dimension: str, similarity: float) -> float:
    """Similarity between clips on the scale of the consistency inside them, by VBench's table."""
    table = _tables()[dimension]
    return float(np.interp(similarity, np.arange(len(table)) / 100, table))


def fuse(
    dimension: str, in_clip: float, clip_to_clip: float, weights: Weights = DEVELOPER
) -> float:
    """Weighted sum of the consistency inside a clip and the mapped consistency between clips.

    A video of a single clip, which has no similarity between clips, keeps its own.
    """
    mapped = map_clip_to_clip(dimension, clip_to_clip)
    return weights.in_clip * in_clip + weights.clip_to_clip * mapped if mapped else in_clip


def consistency(features: Sequence[Any]) -> float:
    """Mean similarity of each feature vector to the one before and to the first, 0 if only one."""
    vectors = [np.asarray(feature, dtype=np.float64) for feature in features]
    units = [vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in vectors]
    if len(units) < 2:
        return 0.0
    pairs = [
        (max(0.0, float(units[i - 1] @ units[i])) + max(0.0, float(units[0] @ units[i]))) / 2
        for i in range(1, len(units))
    ]
    return mean(pairs)


def mean(values: Sequence[float]) -> float:
    """Plain running sum, as in VBench: `sum` compensates from Python 3.12 on, numpy pairs."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def mean_over_groups(groups: Sequence[str], values: Sequence[float]) -> float:
    """Mean of the means of the values of each group, such as the clips of each video."""
    members: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        members.setdefault(group, []).append(value)
    return mean([mean(found) for found in members.values()])


def aggregate(run: Run) -> Aggregate:
    """The score of each dimension, normalised, and the totals that all their dimensions allow."""
    scores: dict[str, float] = {}
    between: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in DIMENSIONS:
        score = run.reported[name] if name in run.reported else _own_score(run, name)
        if isinstance(score, str):
            missing[name] = score
            continue
        scores[name] = score
        videos = {clip.video: clip.clip_to_clip for clip in run.clips.get(name, ())}
        if similarities := [value for value in videos.values() if value is not None]:
            between[name] = mean(similarities)
    normalised = {
        name: (score - DIMENSIONS[name].minimum)
        / (DIMENSIONS[name].maximum - DIMENSIONS[name].minimum)
        for name, score in scores.items()
    }
    quality, semantic = _total("quality", normalised), _total("semantic", normalised)
    total = None
    if quality is not None and semantic is not None:
        weights = QUALITY_WEIGHT + SEMANTIC_WEIGHT
        total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / weights
    return Aggregate(scores, normalised, missing, quality, semantic, total, between)


def _own_score(run: Run, name: str) -> float | str:
    """The score of a dimension from its clips, or why there is none."""
    clips = run.clips.get(name, ())
    if not clips:
        return run.absent.get(name, "not scored")
    values = []
    for clip in clips:
        value = clip.score
        if name in FUSED:
            if clip.clip_to_clip is None:
                reason = "scored inside clips only; similarity between clips is missing"
                return run.absent.get(name, reason)
            value = fuse(name, clip.score, clip.clip_to_clip)
        values.append(value)
    score = mean_over_groups([clip.video for clip in clips], values)
    if not math.isfinite(score):
        return "the score of a clip is no number"
    return score / 100 if name in PERCENT else score


def _total(group: str, normalised: Mapping[str, float]) -> float | None:
    members = {name: d for name, d in DIMENSIONS.items() if d.group == group}
    if any(name not in normalised for name in members):
        return None
    weighed = sum(d.weight * normalised[name] for name, d in members.items())
    return weighed / sum(d.weight for d in members.values())
