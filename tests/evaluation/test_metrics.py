"""Each fault is found by its metric, at the right time, and by no other beyond a tolerance."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.evaluation.scenes import BEGIN, FPS, SECONDS, frames, texture
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.flicker import ChunkBoundaryFlicker, TemporalFlickering
from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Change, Metric, Series, Whole
from tethercache.evaluation.result import VideoResult
from tethercache.evaluation.verdict import THRESHOLDS, WHOLE
from tethercache.video import read_frames

# how far a metric may move that the fault does not concern
TOLERANCE = {
    "colour_difference": 2.5,
    "chroma": 4.0,
    "colourfulness": 1.5,
    "luma": 1.0,
    "contrast": 1.0,
    "log_sharpness": 0.08,
    "frozen_share": 0.01,
    "cuts": 0.0,
    "jumps": 0.0,
}
# the metrics that a fault does concern; what is not said stays within the tolerance
FOUND_BY = {
    "none": set(),
    "saturation": {"chroma", "colourfulness"},
    "brightness": {"colour_difference", "luma"},
    "blur": {"log_sharpness", "contrast"},
    "freeze": {"motion_retention", "frozen_share"},
    "flicker": {"chunk_boundary_flicker"},
    "cut": {"cuts"},
}


def moved(result: VideoResult) -> set[str]:
    found = {name for name, limit in TOLERANCE.items() if abs(result.metrics[name] or 0.0) > limit}
    if abs((result.metrics["motion_retention"] or 0.0) - 1) > 0.1:
        found.add("motion_retention")
    if (result.metrics["chunk_boundary_flicker"] or 0.0) > 1.2:
        found.add("chunk_boundary_flicker")
    return found


@pytest.mark.parametrize("fault", FOUND_BY)
def test_a_fault_is_found_by_its_metrics_and_by_no_other(
    results: dict[str, VideoResult], fault: str
) -> None:
    assert moved(results[fault]) == FOUND_BY[fault]


@pytest.mark.parametrize(
    ("fault", "metric", "second"),
    [
        # the ramps reach the thresholds of drift at these seconds
        ("saturation", "chroma", 11),
        ("brightness", "colour_difference", 15),
        ("blur", "log_sharpness", 14),
        ("freeze", "motion_retention", BEGIN),
    ],
)
def test_the_onset_is_the_second_in_which_the_threshold_is_crossed(
    results: dict[str, VideoResult], fault: str, metric: str, second: int
) -> None:
    onset = results[fault].onset
    assert onset.pop(metric) == pytest.approx(second, abs=1)
    assert set(onset.values()) == {None}
    onset[metric] = float(second)
    before = results[fault].curves[metric][:BEGIN]
    expected = 1.0 if metric == "motion_retention" else 0.0
    assert before == pytest.approx([expected] * BEGIN, abs=0.5)


def test_one_extreme_symptom_is_drift_and_another_is_worth_a_look(
    results: dict[str, VideoResult],
) -> None:
    words = {fault: result.verdict for fault, result in results.items()}
    assert words == {
        "none": "stable",
        "saturation": "drifting",
        "brightness": "drifting",
        "blur": "watch",
        "freeze": "drifting",
        "flicker": "stable",
        "cut": "stable",
    }


def test_a_cut_is_timed_to_the_frame_and_said(results: dict[str, VideoResult]) -> None:
    assert results["cut"].events["cuts"] == [pytest.approx(BEGIN, abs=0.5 / FPS)]
    assert any("1 cut at 8.0 s" in note for note in results["cut"].notes)


def test_a_frozen_end_is_said(results: dict[str, VideoResult]) -> None:
    assert results["freeze"].metrics["frozen_share"] == pytest.approx(1 - BEGIN / SECONDS, abs=0.06)
    frozen = results["freeze"].metrics["frozen_seconds"]
    assert frozen == pytest.approx(SECONDS - BEGIN, abs=0.7)
    assert any("repeat the one before" in note for note in results["freeze"].notes)


def test_flicker_is_found_only_at_the_period_of_its_chunks() -> None:
    previous, values = None, []
    for index, rgb in enumerate(frames("flicker", 10)):
        frame = Frame(index, index / FPS, rgb, previous)
        values.append(ChunkBoundaryFlicker().measure(frame))
        frame.forget_previous()
        previous = frame
    numbers = np.array(values[1:], dtype=np.float64)
    indices = np.arange(1, len(values))
    series = Series(indices, indices / FPS, numbers, len(values) / FPS)
    right = ChunkBoundaryFlicker(chunk=12, first=9).summarise(series)
    wrong = ChunkBoundaryFlicker(chunk=12, first=5).summarise(series)
    assert right is not None
    assert wrong is not None
    assert right > 1.5
    assert wrong == pytest.approx(1.0, abs=0.1)


def test_temporal_flickering_is_vbench_s_formula(scenes: dict[str, Path]) -> None:
    pictures = [frame.astype(np.float32) for frame in read_frames(scenes["none"])]
    errors = [np.abs(a - b).mean() for a, b in itertools.pairwise(pictures)]
    measured = measure_video(scenes["none"]).metrics["temporal_flickering"]
    assert measured == pytest.approx((255 - np.mean(errors)) / 255, abs=1e-6)


def test_flow_measures_pixels_of_the_full_frame() -> None:
    small = cv2.cvtColor(np.clip(texture(), 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB)
    large = np.asarray(cv2.resize(small, (832, 480), interpolation=cv2.INTER_CUBIC))
    shifted = np.roll(large, 6, axis=1)
    first = Frame(0, 0.0, large)
    assert first.motion is None
    assert Frame(1, 0.1, shifted, first).motion == pytest.approx(6, rel=0.15)


def every_metric() -> list[str]:
    return [name for name in METRICS if not METRICS[name].missing]


@pytest.mark.parametrize("name", every_metric())
def test_every_registered_metric_is_a_frozen_dataclass_and_measures(name: str) -> None:
    metric: Metric = METRICS.parse(name)
    assert dataclasses.is_dataclass(metric)
    assert METRICS.spec(metric) == name
    assert isinstance(metric, Change | Whole)
    assert METRICS[name].summary
    assert METRICS[name].source
    previous, values = None, []
    for index, rgb in enumerate(frames("none", 3)):
        frame = Frame(index, index / FPS, rgb, previous)
        value = metric.measure(frame)
        if value is not None:
            values.append(value)
        previous = frame
    data = np.array(values, dtype=np.float64)
    indices = np.arange(len(values), dtype=np.int64)
    if isinstance(metric, Change):
        same = metric.change(data, data)
        assert same == pytest.approx(1.0 if name == "motion_retention" else 0.0, abs=1e-6)
    elif isinstance(metric, Whole) and name != "chunk_boundary_flicker":
        number = metric.summarise(Series(indices, indices / FPS, data, len(data) / FPS))
        assert number is not None
        assert math.isfinite(number)


def test_flat_and_tiny_pictures_measure_without_error() -> None:
    for size in ((1, 1), (2, 3), (15, 17), (64, 64)):
        black = np.zeros((*size, 3), np.uint8)
        first = Frame(0, 0.0, black)
        second = Frame(1, 0.1, black, first)
        for name in METRICS:
            if METRICS[name].needs == "eval":
                METRICS.parse(name).measure(second)


def test_every_threshold_belongs_to_a_metric_and_drift_is_worse_than_watch() -> None:
    for threshold in (*THRESHOLDS, *WHOLE):
        assert threshold.provenance
        assert threshold.metric in METRICS
        worse = threshold.drifting * (0.99 if threshold.is_ratio else 1.01)
        assert threshold.is_beyond(worse, threshold.watch)
        assert threshold.extreme is None or threshold.extreme >= threshold.drifting


def test_flickering_prefers_the_frozen_video_which_is_why_it_gives_no_verdict(
    results: dict[str, VideoResult],
) -> None:
    frozen = results["freeze"].metrics["temporal_flickering"]
    moving = results["none"].metrics["temporal_flickering"]
    assert frozen is not None
    assert moving is not None
    assert frozen > moving
    assert METRICS["temporal_flickering"].better == "neither"
    assert TemporalFlickering.cadence == "every frame"
