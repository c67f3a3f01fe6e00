from __future__ import annotations

import json
from pathlib import Path

import pytest

from tethercache.evaluation.vbench.aggregate import (
    ClipScore,
    Run,
    aggregate,
    consistency,
    fuse,
    map_clip_to_clip,
)
from tethercache.evaluation.vbench.dimensions import DIMENSIONS, FUSED
from tethercache.evaluation.vbench.results import read_results
from tethercache.evaluation.vbench.summary import quality_drift

GOLDEN = {
    "subject_consistency": 0.9626138878411369,
    "background_consistency": 0.9592233882189393,
    "aesthetic_quality": 0.629230591058731,
    "imaging_quality": 0.6406044196605682,
    "dynamic_degree": 0.7466666666666667,
    "motion_smoothness": 0.9715610445063592,
}


def test_a_real_run_is_aggregated_bit_for_bit(shared: Path) -> None:
    run = read_results(shared / "data/vbench_long/golden")
    made = aggregate(run)
    assert dict(made.scores) == GOLDEN
    assert run.problems == []
    assert made.quality is None
    assert made.total is None
    assert "temporal_flickering" in made.missing
    drift = quality_drift(run)["protocols"]["tethercache"]
    assert (round(drift["mean"], 2), round(drift["mean_absolute"], 2)) == (-1.88, 5.48)


def test_every_mapped_and_fused_score_of_a_real_run_is_exact(shared: Path) -> None:
    for path in sorted((shared / "data/vbench_long/golden").iterdir()):
        for name, entry in json.loads(path.read_text()).items():
            for clip in entry[1] if name in FUSED else []:
                between = clip["clip2clip_score"]
                assert map_clip_to_clip(name, between) == clip["mapped_clip2clip_score"]
                assert fuse(name, clip["inclip_score"], between) == clip["video_results"]


@pytest.mark.parametrize(
    ("dimension", "similarity", "mapped"),
    [
        ("subject_consistency", 0.5, 0.932675),
        ("subject_consistency", 0.75, 0.973668),
        ("subject_consistency", 0.9, 0.98871),
        ("background_consistency", 0.5, 0.946058),
        ("background_consistency", 0.9, 0.971717),
    ],
)
def test_the_mapping_has_the_published_entries(
    dimension: str, similarity: float, mapped: float
) -> None:
    assert map_clip_to_clip(dimension, similarity) == pytest.approx(mapped, abs=5e-7)


def test_a_single_clip_keeps_its_own_consistency() -> None:
    assert fuse("subject_consistency", 0.9, 0.0) == 0.9


def complete(score: float = 0.5) -> dict[str, list[ClipScore]]:
    """Every dimension, with one clip that scores the same everywhere."""
    return {
        name: [
            ClipScore(
                "a",
                0,
                100 * score if name == "imaging_quality" else score,
                0.0 if name in FUSED else None,
            )
        ]
        for name in DIMENSIONS
    }


def test_totals_equal_a_hand_example() -> None:
    made = aggregate(Run(complete()))
    # norms of 0.5, by hand from VBench's minimum and maximum
    quality = (
        (0.5 - 0.1462) / 0.8538
        + (0.5 - 0.2615) / 0.7385
        + (0.5 - 0.6293) / 0.3707
        + (0.5 - 0.706) / 0.2915
        + 0.5 * 0.5
        + 0.5
        + 0.5
    ) / 6.5
    semantic = (5 * 0.5 + 0.5 / 0.8222 + (0.5 - 0.0009) / 0.2846 + 2 * 0.5 / 0.364) / 9
    assert made.quality == pytest.approx(quality, abs=1e-12)
    assert made.semantic == pytest.approx(semantic, abs=1e-12)
    assert made.total == pytest.approx((4 * quality + semantic) / 5, abs=1e-12)
    assert not made.is_partial


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_missing_dimension_is_never_zero(name: str) -> None:
    clips = complete()
    del clips[name]
    made = aggregate(Run(clips))
    assert name not in made.scores
    assert made.missing == {name: "not scored"}
    assert made.total is None
    is_quality = DIMENSIONS[name].group == "quality"
    assert (made.quality is None) == is_quality
    assert (made.semantic is None) != is_quality


def test_consistency_inside_clips_alone_is_no_fused_consistency() -> None:
    clips = complete()
    clips["subject_consistency"] = [ClipScore("a", 0, 0.9)]
    made = aggregate(Run(clips))
    assert "inside clips only" in made.missing["subject_consistency"]
    assert made.quality is None


def test_consistency_is_the_mean_of_neighbours_and_first() -> None:
    features = [[1, 0], [0, 1], [0, 2], [-1, 0]]
    # (0 + 0)/2, (1 + 0)/2, (0 + max(0, -1))/2
    assert consistency(features) == pytest.approx((0 + 0.5 + 0) / 3)
    assert consistency([[1, 0]]) == 0.0
