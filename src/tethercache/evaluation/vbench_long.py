"""VBench-Long's arithmetic: clips, fusion, normalisation and totals, and its result files.

Needs no weights and not the `vbench` package, whose long part cannot be imported; so totals and
drift of someone's finished run can be made anywhere. Where their script counts a missing dimension
as 0, ours makes no total. Constants: Vchitect/VBench at 45e79ec (Apache-2.0).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from tethercache.evaluation.drift import PROTOCOLS, start_end, statistics
from tethercache.evaluation.metrics.metric import Series
from tethercache.video import VideoWriter, probe, read_frames

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Dimension:
    """One of VBench's dimensions and how it enters the totals.

    Attributes:
        group: the total that it belongs to.
        minimum: normalised to 0.
        maximum: normalised to 1.
        weight: in its total.
        clip_seconds: length of its clips with the standard prompts.
    """

    group: Literal["quality", "semantic"]
    minimum: float
    maximum: float
    weight: float = 1.0
    clip_seconds: int = 2


DIMENSIONS: Mapping[str, Dimension] = {
    "subject_consistency": Dimension("quality", 0.1462, 1.0),
    "background_consistency": Dimension("quality", 0.2615, 1.0),
    "temporal_flickering": Dimension("quality", 0.6293, 1.0),
    "motion_smoothness": Dimension("quality", 0.706, 0.9975),
    "dynamic_degree": Dimension("quality", 0.0, 1.0, weight=0.5),
    "aesthetic_quality": Dimension("quality", 0.0, 1.0, clip_seconds=10),
    "imaging_quality": Dimension("quality", 0.0, 1.0, clip_seconds=10),
    "object_class": Dimension("semantic", 0.0, 1.0),
    "multiple_objects": Dimension("semantic", 0.0, 1.0),
    "human_action": Dimension("semantic", 0.0, 1.0, clip_seconds=10),
    "color": Dimension("semantic", 0.0, 1.0),
    "spatial_relationship": Dimension("semantic", 0.0, 1.0),
    "scene": Dimension("semantic", 0.0, 0.8222),
    "appearance_style": Dimension("semantic", 0.0009, 0.2855),
    "temporal_style": Dimension("semantic", 0.0, 0.364, clip_seconds=10),
    "overall_consistency": Dimension("semantic", 0.0, 0.364, clip_seconds=10),
}
FUSED = ("subject_consistency", "background_consistency")
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
CUSTOM_CLIP_SECONDS = 2
_PERCENT = ("imaging_quality",)  # scored 0 to 100 a clip, 0 to 1 in the mean


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
class Aggregate:
    """Scores and totals of a run.

    Attributes:
        scores: mean over the clips of each dimension, on VBench's scale.
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


@dataclass(frozen=True)
class Run:
    """The scores of a run, from files or fresh.

    Attributes:
        clips: scores by dimension.
        reported: the mean that the files themselves state.
        files: where they come from.
        problems: what could not be read or does not fit together.
        absent: why dimensions were not scored.
    """

    clips: Mapping[str, Sequence[ClipScore]]
    reported: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[str] = ()
    problems: Sequence[str] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


def plan_clips(num_frames: int, fps: float, seconds: int) -> list[range]:
    """Which frames each clip has: whole clips, then one more from the end if frames remain.

    The last clip is as long as the others and overlaps the one before it; a video shorter than a
    clip is one clip.
    """
    length = int(fps) * seconds
    if length < 1 or num_frames < 1:
        raise ValueError(
            f"`fps` ({fps}), `seconds` ({seconds}) and `num_frames` ({num_frames}) must be positive"
        )
    if num_frames < length:
        return [range(num_frames)]
    clips = [range(i, i + length) for i in range(0, num_frames - length + 1, length)]
    if num_frames % length:
        clips.append(range(num_frames - length, num_frames))
    return clips


def split_video(path: Path, folder: Path, seconds: int = CUSTOM_CLIP_SECONDS) -> list[Path]:
    """Write a video's clips as `NAME_000.mp4`, ...; reads it once and holds no more than a frame.

    Args:
        path: the long video.
        folder: where the clips go; made if need be.
        seconds: length of a clip.

    Returns:
        The clips in order; a video that is shorter than one is `NAME_full.mp4`.
    """
    info = probe(path)
    clips = plan_clips(info.num_frames, float(info.fps), seconds)
    folder.mkdir(parents=True, exist_ok=True)
    whole = len(clips) == 1 and len(clips[0]) < int(info.fps) * seconds
    paths = [
        folder / f"{path.stem}_{'full' if whole else f'{i:03d}'}.mp4" for i in range(len(clips))
    ]
    length = len(clips[0])
    with ExitStack() as stack:
        writers: dict[int, VideoWriter] = {}
        for index, frame in enumerate(read_frames(path)):
            # the clip in whose turn the frame is, and the last one, which overlaps it
            for i in {min(index // length, len(clips) - 1), len(clips) - 1}:
                if index not in clips[i]:
                    continue
                if i not in writers:
                    writers[i] = stack.enter_context(
                        VideoWriter(
                            paths[i],
                            fps=info.fps,
                            width=info.width,
                            height=info.height,
                            overwrite=True,
                        )
                    )
                writers[i].write(frame[None])
                if index == clips[i].stop - 1:
                    writers.pop(i).close()
    return paths


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, list[float]]:
    text = files("tethercache.evaluation").joinpath("vbench_long_tables.json").read_text()
    tables: Mapping[str, list[float]] = json.loads(text)
    return tables


def map_clip_to_clip(dimension: str, similarity: float) -> float:
    """Similarity between clips on the scale of the consistency inside them, by VBench's table."""
    table = _tables()[dimension]
    return float(np.interp(similarity, np.arange(len(table)) / 100, table))


def fuse(dimension: str, in_clip: float, clip_to_clip: float) -> float:
    """Half consistency inside a clip, half mapped consistency between clips.

    A video of a single clip, which has no similarity between clips, keeps its own.
    """
    mapped = map_clip_to_clip(dimension, clip_to_clip)
    return 0.5 * in_clip + 0.5 * mapped if mapped else in_clip


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
    return _mean(pairs)


def _mean(values: Sequence[float]) -> float:
    """Plain running sum, as in VBench: `sum` compensates from Python 3.12 on, numpy pairs."""
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def aggregate(run: Run) -> Aggregate:
    """Means over clips, normalised, and the totals that all their dimensions are there for."""
    scores: dict[str, float] = {}
    between: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in DIMENSIONS:
        clips = run.clips.get(name, ())
        if not clips:
            missing[name] = run.absent.get(name, "not scored")
        elif name not in FUSED:
            scores[name] = _mean([clip.score for clip in clips]) / (100 if name in _PERCENT else 1)
        else:
            fused = [
                fuse(name, clip.score, clip.clip_to_clip)
                for clip in clips
                if clip.clip_to_clip is not None
            ]
            if len(fused) < len(clips):
                missing[name] = run.absent.get(
                    name, "scored inside clips only; similarity between clips is missing"
                )
                continue
            scores[name] = _mean(fused)
            videos = {clip.video: clip.clip_to_clip for clip in clips}
            between[name] = _mean([value for value in videos.values() if value is not None])
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


def _total(group: str, normalised: Mapping[str, float]) -> float | None:
    members = {name: d for name, d in DIMENSIONS.items() if d.group == group}
    if any(name not in normalised for name in members):
        return None
    weighed = sum(d.weight * normalised[name] for name, d in members.items())
    return weighed / sum(d.weight for d in members.values())


def quality_drift(run: Run, dimension: str = "imaging_quality") -> dict[str, Any]:
    """Start - end of a quality over the clips of each video, under each named protocol.

    Positive: the quality fell. On VBench's scale times 100. A clip belongs to a stretch if its
    middle does. Needs at least two clips a video.
    """
    videos = _by_video(run.clips.get(dimension, ()))
    standard = any(DIMENSIONS[name].group == "semantic" for name in run.clips)
    seconds = DIMENSIONS[dimension].clip_seconds if standard else CUSTOM_CLIP_SECONDS
    factor = 1 if dimension in _PERCENT else 100
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


def find_results(folder: Path) -> list[Path]:
    """VBench's result files in a folder, oldest first by the time in their names."""
    return sorted(folder.glob("*eval_results.json"))


def read_results(folder: Path) -> Run:
    """Read a finished run of VBench-Long, made here or elsewhere.

    Of a dimension that was scored twice, the newest file counts.

    Raises:
        ValueError: there are no result files, or none has a dimension that is known.
    """
    paths = find_results(folder)
    if not paths:
        raise ValueError(f"no *_eval_results.json in {folder}")
    clips: dict[str, list[ClipScore]] = {}
    reported: dict[str, float] = {}
    problems: list[str] = []
    absent: dict[str, str] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise TypeError("is no object")
        except (OSError, ValueError, TypeError) as error:
            problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())}")
            continue
        for name, entry in content.items():
            if name not in DIMENSIONS:
                problems.append(f"{path.name} has the unknown dimension `{name}`")
                continue
            try:
                clips[name] = [_clip_score(name, item) for item in entry[1]]
                reported[name] = float(entry[0])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                problems.append(f"{path.name}: {name} has no scores of clips ({error!r})")
                absent[name] = f"{path.name} has no scores of clips"
    run = Run(clips, reported, [path.name for path in paths], problems, absent)
    if not clips:
        raise ValueError(f"no scores in {folder}: {'; '.join(problems)}")
    made = aggregate(run)
    for name, score in made.scores.items():
        if not math.isclose(score, reported[name], rel_tol=1e-9, abs_tol=1e-12):
            problems.append(
                f"{name}: the file says {reported[name]:.6f}, its clips make {score:.6f}"
            )
    return dataclasses.replace(run, problems=problems)


def _clip_score(dimension: str, item: Mapping[str, Any]) -> ClipScore:
    video, clip = _clip_name(str(item["video_path"]))
    if dimension not in FUSED:
        return ClipScore(video, clip, float(item["video_results"]))
    between = item.get("clip2clip_score")
    inside = item["inclip_score"] if between is not None else item["video_results"]
    return ClipScore(video, clip, float(inside), None if between is None else float(between))


def _clip_name(path: str) -> tuple[str, int]:
    """The long video and the number of the clip; consistencies append the video to the path."""
    for part in reversed(PurePosixPath(path.replace("\\", "/")).parts):
        if found := re.fullmatch(r"(.*)_(\d{3,}|full)\.mp4", part):
            return found[1], 0 if found[2] == "full" else int(found[2])
    return PurePosixPath(path).stem, 0


def as_json(run: Run) -> dict[str, Any]:
    """The content of results.json for the suite `vbench-long`."""
    made = aggregate(run)
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
        "dimensions": {
            name: {
                "score": made.scores[name],
                "normalised": made.normalised[name],
                "clips": len(run.clips[name]),
            }
            | ({"clip_to_clip": made.clip_to_clip[name]} if name in made.clip_to_clip else {})
            for name in made.scores
        },
        "missing": dict(made.missing),
        "quality_drift": drift,
        "files": list(run.files),
        "problems": list(run.problems),
    }
