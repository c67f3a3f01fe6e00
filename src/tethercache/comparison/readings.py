"""What is read of one video of a comparison: numbers by name, None for what there is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tethercache.comparison.plan import Subject
from tethercache.evaluation import world
from tethercache.evaluation.measure import SkippedVideoError, measure_video
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import rounded
from tethercache.evaluation.verdict import THRESHOLDS
from tethercache.evaluation.world import oracle, revisits
from tethercache.video import read_frames

VERSION = 1
EVERY = 4  # frames of the rendered world, of which one is read
SETTLED = 10  # seconds that the oracle leaves out where a video is at least twice as long

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Measure:
    """One number of a video.

    Attributes:
        title: the head of its column.
        better: which value is better.
        about: what it is, with its unit.
    """

    title: str
    better: Better
    about: str


ORACLE: Mapping[str, Measure] = {
    "adherence": Measure(
        "adherence", "higher", "share of what the prompt says that the oracle sees, 0 to 1"
    ),
    "identity": Measure(
        "identity", "higher", "share of the objects of the first 5 s that stay the same, 0 to 1"
    ),
    "speed": Measure("speed", "neither", "mean speed of the objects, pixels a second"),
    "revisits": Measure(
        "revisits", "higher", "share of returns that show the sign of the first visit, 0 to 1"
    ),
}
COST: Mapping[str, Measure] = {
    "frames_per_second": Measure("frames/s", "higher", "generated and decoded, of one run"),
    "cache_mb": Measure("cache MB", "lower", "memory of the cache, by its size"),
}


def panel() -> dict[str, Measure]:
    """The drift panel: the metrics by which the verdict of `tethercache eval` judges."""
    found = {
        threshold.metric: Measure(
            threshold.metric.replace("_", " "),
            METRICS[threshold.metric].better,
            f"{threshold.component}, first 5 s against last 5 s",
        )
        for threshold in THRESHOLDS
    }
    word = Measure("drifting", "lower", "share of videos whose verdict is `drifting`")
    return {**found, "drifting": word}


def measures() -> dict[str, Measure]:
    """All that can be read, by name."""
    return {**ORACLE, **panel(), **COST}


def read(video: Path, subject: Subject) -> dict[str, Any]:
    """Read one video.

    Returns:
        `values`: numbers by the names of `measures`, but for what a video costs. `curves`: the
        drift panel's, a value a second. `verdict`: the word, or why there is none.
    """
    values: dict[str, float | None] = {}
    curves: dict[str, list[float | None]] = {}
    try:
        result = measure_video(video, Options())
    except SkippedVideoError as error:
        verdict = str(error)
    else:
        verdict = result.verdict
        names = [threshold.metric for threshold in THRESHOLDS]
        values |= {name: result.metrics.get(name) for name in names}
        values["drifting"] = float(verdict == "drifting")
        curves = {name: list(result.curves.get(name, ())) for name in names}
    if subject.scene is not None:
        seen, more = _seen(video, subject.scene)
        values |= seen
        curves |= more
    found: dict[str, Any] = rounded({"values": values, "curves": curves, "verdict": verdict})
    return found


def _seen(
    video: Path, scene: world.Scene
) -> tuple[dict[str, float | None], dict[str, list[float | None]]]:
    """What the oracle sees in a video of the rendered world; nothing in one of another size."""
    frames = np.stack(list(read_frames(video))[::EVERY])
    if frames.shape[1:3] != (world.SIZE, world.SIZE):
        return {}, {}
    readings, rate = oracle.read(frames), world.FPS // EVERY
    seconds = {
        "adherence": oracle.adherence_per_second(readings, scene, rate),
        "identity": oracle.identity_per_second(readings, fps=rate),
        "speed": oracle.speed_per_second(readings, scene, rate),
    }
    values = {name: _mean(of) for name, of in seconds.items()}
    if scene.signs:
        back = revisits.returns(revisits.visits(frames, scene, EVERY, readings))
        values["revisits"] = float(np.mean([one.same for one in back])) if back else None
    return values, {name: list(map(float, of)) for name, of in seconds.items()}


def _mean(seconds: np.ndarray) -> float | None:
    """Of the seconds behind the first ones, in which policies of a budget do the same."""
    later = seconds[SETTLED:] if len(seconds) >= 2 * SETTLED else seconds
    kept = [float(value) for value in later if not math.isnan(value)]
    return float(np.mean(kept)) if kept else None
