"""What is read of renders, whose truth is known, and how it is summed up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tethercache as tc
from tethercache.comparison import Plan, Subject, of_scenes, readings, summarise
from tethercache.comparison.summary import estimate, table
from tethercache.comparison.units import units
from tethercache.evaluation import world
from tethercache.video import VideoWriter


def written(path: Path, scene: world.Scene, seconds: int) -> Path:
    frames, _ = world.render(scene, np.arange(seconds * world.FPS))
    with VideoWriter(path, fps=world.FPS, width=world.SIZE, height=world.SIZE) as writer:
        writer.write(frames)
    return path


def test_a_render_shows_what_its_prompt_says_and_stays_the_same(tmp_path: Path) -> None:
    (subject,) = of_scenes(1)
    assert subject.scene is not None
    found = readings.read(written(tmp_path / "a.mp4", subject.scene, 12), subject)
    values = found["values"]
    assert values["adherence"] > 0.95
    assert values["identity"] > 0.9
    assert values["drifting"] == 0.0
    assert len(found["curves"]["adherence"]) == 12
    assert "revisits" not in values
    assert set(values) <= set(readings.measures())
    unknown = readings.read(tmp_path / "a.mp4", Subject(subject.prompt))
    assert set(unknown["values"]) == set(readings.panel())


def test_a_video_of_another_scene_is_told_apart(tmp_path: Path) -> None:
    one, two = of_scenes(2)
    assert one.scene is not None
    found = readings.read(written(tmp_path / "a.mp4", one.scene, 12), two)
    assert found["values"]["adherence"] < 0.7


@pytest.mark.slow
def test_a_place_that_comes_back_is_recognised(tmp_path: Path) -> None:
    (subject,) = of_scenes(1, turning=True)
    assert subject.scene is not None
    assert subject.scene.signs
    found = readings.read(written(tmp_path / "a.mp4", subject.scene, 24), subject)
    assert found["values"]["revisits"] == 1.0


def test_a_short_video_has_no_verdict_but_says_why(tmp_path: Path) -> None:
    (subject,) = of_scenes(1)
    assert subject.scene is not None
    found = readings.read(written(tmp_path / "a.mp4", subject.scene, 1), subject)
    assert found["values"].get("drifting") is None or found["verdict"] in ("stable", "watch")


def test_estimates() -> None:
    few = estimate([1.0, 2.0])
    assert (few.mean, few.low, few.high, few.prompts) == (1.5, None, None, 2)
    assert not few.is_clear
    same = estimate([0.25] * 5)
    assert (same.low, same.high) == (0.25, 0.25)
    assert same.is_clear
    wide, narrow = estimate([0.0, 1.0, 2.0, 3.0], 0.999), estimate([0.0, 1.0, 2.0, 3.0], 0.8)
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low < 1.5


def test_differences_are_paired_by_prompt_and_corrected_for_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tc.VideoRequest("-", seconds=1)
    plan = Plan(request, ("fifo", "sink", "tethercache"), tuple(of_scenes(4)), seeds=2)
    gain = {"fifo": 0.0, "sink": 0.1, "tethercache": 0.0}
    for unit in units(plan, tmp_path):
        value = unit.prompt + gain[unit.policy] + (0.05 if unit.seed else -0.05)
        values = {"adherence": value, "speed": None if unit.prompt == 3 else 2.0}
        unit.path.parent.mkdir(exist_ok=True)
        unit.reading_path.write_text(json.dumps({"values": values}))
    monkeypatch.setattr(
        "tethercache.comparison.units.Unit.reading",
        lambda unit: json.loads(unit.reading_path.read_text()),
    )
    summary = summarise(plan, tmp_path)
    assert summary.measures == ["adherence", "speed"]
    assert summary.confidence == pytest.approx(1 - 0.05 / 4)
    better = summary.differences["sink"]["adherence"]
    assert (better.mean, better.low, better.high) == pytest.approx((0.1, 0.1, 0.1))
    assert summary.differences["tethercache"]["adherence"].high == 0.0
    assert summary.differences["sink"]["speed"].prompts == 3
    assert summary.means["fifo"]["adherence"].mean == pytest.approx(1.5)
    rows = [row for row in table(summary).rows if row[4].text]
    tones = {(row[1].text, row[4].text): row[4].tone for row in rows[:2]}
    assert tones == {("sink", "+0.100"): "good", ("tethercache", "+0.000"): ""}
