"""Result files as people have them: layouts, weights, gaps, and files of other tools."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tethercache.evaluation.vbench import documents
from tethercache.evaluation.vbench.aggregate import (
    DEFAULT,
    DEVELOPER,
    Weights,
    aggregate,
    map_clip_to_clip,
)
from tethercache.evaluation.vbench.dimensions import DIMENSIONS, FUSED
from tethercache.evaluation.vbench.results import read_results
from tethercache.evaluation.vbench.summary import as_json, describe

CLIPS = {"a cat-0": 3, "a dog-0": 5}  # videos of unequal length


def clip_paths() -> list[str]:
    return [
        f"/r/split_clip/{video}/{video}_{i:03d}.mp4" for video, n in CLIPS.items() for i in range(n)
    ]


def entry(name: str, weights: Weights = DEVELOPER) -> list[Any]:
    """A dimension as VBench-Long writes it, with the mean over videos."""
    items, means = [], []
    for video in CLIPS:
        found = []
        for i, path in enumerate(p for p in clip_paths() if f"/{video}_" in p):
            score = 0.5 + 0.07 * i + 0.01 * len(video)
            item: dict[str, Any] = {"video_path": path, "video_results": score}
            if name in FUSED:
                between = 0.8 if video == "a cat-0" else 0.6
                mapped = map_clip_to_clip(name, between)
                item = {
                    "video_path": f"{path}/{video}.mp4",
                    "inclip_score": score,
                    "clip2clip_score": between,
                    "mapped_clip2clip_score": mapped,
                    "video_results": weights.in_clip * score + weights.clip_to_clip * mapped,
                }
            found.append(item["video_results"])
            if name == "imaging_quality":
                item["video_results"] *= 100
            items.append(item)
        means.append(sum(found) / len(found))
    score = sum(means) / len(means)
    return [score, items] if name in FUSED else [score, items, []]


def results(weights: Weights = DEVELOPER) -> dict[str, Any]:
    return {name: entry(name, weights) for name in DIMENSIONS}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def one_file(folder: Path, content: dict[str, Any]) -> Path:
    return write(folder / "results_2026-01-01-00:00:00_eval_results.json", content).parent


def file_alone(folder: Path, content: dict[str, Any]) -> Path:
    return write(folder / "results.json", content)


def another_name(folder: Path, content: dict[str, Any]) -> Path:
    return write(folder / "my_run_eval_result.json", content).parent


def spaces(folder: Path, content: dict[str, Any]) -> Path:
    return one_file(folder, {name.replace("_", " "): value for name, value in content.items()})


def folders_of_dimensions(folder: Path, content: dict[str, Any]) -> Path:
    for name, value in content.items():
        write(folder / name / "results_eval_results.json", {name: value})
    write(folder / "__MACOSX/x.json", {"color": [0.0]})
    write(folder / "color/.hidden.json", {"color": [0.0]})
    write(folder / "color/info.json", [{"prompt_en": "a cat"}])
    return folder


def zipped(folder: Path, content: dict[str, Any]) -> Path:
    made = folders_of_dimensions(folder / "run", content)
    with zipfile.ZipFile(folder / "run.zip", "w") as archive:
        for path in made.rglob("*.json"):
            archive.write(path, path.relative_to(folder))
    return folder / "run.zip"


def official_total(content: dict[str, Any]) -> float:
    """The total of VBench's own script: of what the files state, by its constants."""
    normalised = {
        name: (content[name][0] - d.minimum) / (d.maximum - d.minimum) * d.weight
        for name, d in DIMENSIONS.items()
    }
    groups = [
        sum(normalised[name] for name, d in DIMENSIONS.items() if d.group == group)
        for group in ("quality", "semantic")
    ]
    return (4 * groups[0] / 6.5 + groups[1] / 9) / 5


@pytest.mark.parametrize(
    "layout", [one_file, file_alone, another_name, spaces, folders_of_dimensions, zipped]
)
def test_every_layout_gives_the_official_total(
    tmp_path: Path, layout: Callable[[Path, dict[str, Any]], Path]
) -> None:
    run = read_results(layout(tmp_path, results()))
    assert run.problems == run.notes == []
    assert aggregate(run).total == pytest.approx(official_total(results()), abs=1e-12)


def test_the_mean_is_over_videos_then_over_clips(tmp_path: Path) -> None:
    items = [
        {"video_path": f"/r/split_clip/{v}-0/{v}-0_{i:03d}.mp4", "video_results": score}
        for v, score, n in (("a", 0.9, 15), ("b", 0.5, 5))
        for i in range(n)
    ]
    run = read_results(one_file(tmp_path, {"motion_smoothness": [0.7, items, []]}))
    assert run.problems == run.notes == []
    assert aggregate(run).scores == {"motion_smoothness": 0.7}
    fresh = type(run)(run.clips)  # without what the file states
    assert aggregate(fresh).scores["motion_smoothness"] == pytest.approx(0.7)
    over_clips = read_results(one_file(tmp_path, {"motion_smoothness": [0.8, items, []]}))
    assert over_clips.problems == []
    assert "mean over clips; that over videos is 0.700000" in over_clips.notes[0]
    assert aggregate(over_clips).scores["motion_smoothness"] == 0.8
    odd = read_results(one_file(tmp_path, {"motion_smoothness": [0.75, items, []]}))
    assert "the file says 0.750000, which counts; its clips make 0.700000" in odd.problems[0]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (DEVELOPER, "0.5 inside clips + 0.5 between clips (VBench with --dev_flag)"),
        (DEFAULT, "1 inside clips + 0 between clips (VBench without --dev_flag)"),
        (Weights(0.7, 0.3), "0.7 inside clips + 0.3 between clips (weights of their own)"),
    ],
)
def test_the_weights_are_told_by_the_numbers(tmp_path: Path, weights: Weights, said: str) -> None:
    content = results(weights)
    run = read_results(one_file(tmp_path, content))
    assert run.problems == []
    assert run.weights == dict.fromkeys(FUSED, weights)
    assert as_json(run)["dimensions"]["subject_consistency"]["made_of"] == said
    assert as_json(run)["total"] == pytest.approx(official_total(content), abs=1e-12)


def test_consistency_inside_clips_alone_is_said_and_counts_as_officially(tmp_path: Path) -> None:
    content = results()
    for name in FUSED:
        content[name] = entry("motion_smoothness")[:2]
    run = read_results(one_file(tmp_path, content))
    assert run.problems == []
    assert run.weights == dict.fromkeys(FUSED, DEFAULT)
    assert aggregate(run).total == pytest.approx(official_total(content), abs=1e-12)


def test_parts_that_do_not_make_the_fused_score_are_a_problem(tmp_path: Path) -> None:
    content = {"subject_consistency": entry("subject_consistency")}
    content["subject_consistency"][1][0]["video_results"] += 0.1
    run = read_results(one_file(tmp_path, content))
    assert "no weighted sum" in run.problems[0]
    assert "the file says" in run.problems[1]
    assert describe(run.weights["subject_consistency"]) == "weights not told by the numbers"


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", 10**400, [], {}])
@pytest.mark.parametrize("place", ["clip", "score"])
def test_what_is_no_number_is_named_and_makes_no_total(
    tmp_path: Path, value: object, place: str
) -> None:
    content = results()
    if place == "clip":
        content["aesthetic_quality"][1][3]["video_results"] = value
    else:
        content["aesthetic_quality"][0] = value
    run = read_results(one_file(tmp_path, content))
    made = as_json(run)
    assert made["total"] is made["quality"] is None
    assert made["semantic"] is not None
    what = "the clip a dog-0_000.mp4" if place == "clip" else "its score"
    assert f"aesthetic_quality has no number: {what}" in run.problems[0]
    assert list(made["missing"]) == ["aesthetic_quality"]


def test_scores_without_clips_are_taken_with_a_note(tmp_path: Path) -> None:
    flat = {name: value[0] for name, value in results().items()}
    run = read_results(one_file(tmp_path, flat))
    assert aggregate(run).total == pytest.approx(official_total(results()), abs=1e-12)
    assert run.problems == []
    assert "without clips, which cannot be checked: subject_consistency, " in run.notes[0]


def test_files_of_other_suites_are_told_apart(tmp_path: Path) -> None:
    whole = [{"video_path": f"/v/a cat-{i}.mp4", "video_results": 0.8} for i in range(5)]
    short = one_file(tmp_path / "short", {name: [0.8, whole] for name in DIMENSIONS})
    with pytest.raises(ValueError, match=r"no results of VBench-Long.*of whole videos"):
        read_results(short)
    two = one_file(tmp_path / "two", {"Human_Anatomy": [0.8, whole], "Multi-View Consistency": []})
    with pytest.raises(ValueError, match=r"no results of VBench-Long.*of VBench-2.0"):
        read_results(two)
    i2v = one_file(tmp_path / "i2v", {"i2v_subject": [0.8, whole], "motion_smoothness": [0.8]})
    with pytest.raises(ValueError, match="of VBench-I2V"):
        read_results(i2v)
    write(short / "long_eval_results.json", {"color": entry("color")})
    mixed = read_results(short)
    assert list(mixed.reported) == ["color"]
    assert "of whole videos" in mixed.problems[0]


def test_a_dimension_scored_twice_is_the_newest_of_a_folder_and_several_runs_are_refused(
    tmp_path: Path,
) -> None:
    write(tmp_path / "results_2026-01-02_eval_results.json", {"color": [0.2]})
    write(tmp_path / "results_2026-01-01_eval_results.json", {"color": [0.1]})
    run = read_results(tmp_path)
    assert run.reported == {"color": 0.2}
    assert "scored twice" in run.notes[0]
    write(tmp_path / "another/results_eval_results.json", {"color": [0.3]})
    with pytest.raises(ValueError, match=r"holds several runs: color is 0.2 in .* and 0.3 in"):
        read_results(tmp_path)


def test_damaged_and_foreign_result_files_are_named(tmp_path: Path) -> None:
    good = entry("motion_smoothness")
    write(tmp_path / "1_eval_results.json", {"motion_smoothness": good})
    write(tmp_path / "2_eval_results.json", {"charm": good})
    write(tmp_path / "3_eval_results.json", {"dynamic_degree": [0.5, [{}]]})
    write(tmp_path / "4_eval_results.json", {"aesthetic_quality": [0.9, *good[1:]]})
    (tmp_path / "5_eval_results.json").write_text("{")
    (tmp_path / "6_eval_results.json").write_text("[" * 100_000)
    (tmp_path / "7_eval_results.json").write_bytes(b'{"\xff": 1}')
    write(tmp_path / "settings.json", {"fps": 16})  # of nobody here
    run = read_results(tmp_path)
    assert set(run.clips) == {"motion_smoothness", "aesthetic_quality"}
    problems = " / ".join(run.problems)
    for expected in (
        "unknown dimension `charm`",
        "without `video_path`",
        "the file says 0.9",
        "5_eval_results.json cannot be read",
        "6_eval_results.json cannot be read",
        "7_eval_results.json cannot be read",
    ):
        assert expected in problems
    assert "settings.json" not in problems


def test_a_folder_or_zip_without_results_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no \\*_eval_results"):
        read_results(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match="cannot be read as a zip file"):
        read_results(tmp_path / "a.zip")
    monkeypatch.setattr(documents, "LARGEST", 1000)
    with pytest.raises(ValueError, match="MB of JSON files; at most"):
        read_results(zipped(tmp_path / "large", results()))


MADE = ("full", "full.zip", "per_dim_folders", "plain_results_json", "prefixless", "spaces", "flat")


@pytest.mark.parametrize("name", MADE)
def test_the_made_folders_give_what_the_official_script_prints(shared: Path, name: str) -> None:
    made = aggregate(read_results(shared / "data/vbench_long/made" / name))
    assert made.quality == pytest.approx(0.5467320478170266, abs=1e-12)
    assert made.semantic == pytest.approx(1.2315093279315101, abs=1e-12)
    assert made.total == pytest.approx(0.6836875038399233, abs=1e-12)


def test_the_other_made_folders_are_what_they_are(shared: Path) -> None:
    made = shared / "data/vbench_long/made"
    assert aggregate(read_results(made / "unequal")).scores == {"motion_smoothness": 0.7}
    for name in ("nan_score", "null_score"):
        found = aggregate(read_results(made / name))
        assert found.total is found.quality is None
        assert "has no number" in found.missing["aesthetic_quality"]
    assert aggregate(read_results(made / "quality_only")).quality == pytest.approx(0.54673204781)
    for name, what in (("vbench2", "VBench-2.0"), ("vbench_short_standard", "whole videos")):
        with pytest.raises(ValueError, match=what):
            read_results(made / name)
    with pytest.raises(ValueError, match="holds several runs"):
        read_results(made)
