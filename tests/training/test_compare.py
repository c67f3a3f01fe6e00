"""Two training runs side by side: what is compared, over which steps and which prompts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from training import compare
from training.report import COMPARED


def write_curve(path: Path, losses: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{20 * (i + 1)},{i},{loss}" for i, loss in enumerate(losses)]
    path.write_text("\n".join(["step,seconds,loss", *rows]) + "\n")


def write_runs(first: Path, second: Path) -> None:
    write_curve(first / "vae-0-images.csv", [9, 3, 3, 3, 1, 1, 1, 1])
    write_curve(first / "a-teacher-1-window.csv", [0.5, 0.25])
    write_curve(first / "student-0-first.csv", [1.0])  # the second run has not come to it
    write_curve(second / "vae" / "0-images.csv", [8, 2, 2, 2, 2, 2, 5, 7, 9])
    write_curve(second / "a-teacher" / "1-window.csv", [0.5, 0.75])
    write_curve(second / "student" / "0-first.csv", [])


def test_stages_are_compared_up_to_the_steps_that_both_have(tmp_path: Path):
    first, second = tmp_path / "curves", tmp_path / "runs"
    write_runs(first, second)
    assert compare.curves_table(first, second).splitlines()[2:] == [
        "| a-teacher-1-window | 40 | loss | 0.25 | 0.75 |",
        "| vae-0-images | 160 | loss | 1 ± 0 | 6 ± 1.4 |",
    ]
    compare.plot(first, second, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


def run(*prompts: str, adherence: float, everything: bool) -> dict[str, Any]:
    return {
        "results": [
            {"prompt": p, "adherence": adherence, "everything": everything} for p in prompts
        ]
    }


def test_scores_are_compared_prompt_by_prompt():
    one = run("a", "b", "c", adherence=0.5, everything=True)
    two = run("c", "b", "z", adherence=0.75, everything=False)
    assert compare.scores_table(one, two).splitlines() == [
        "| 2 prompts | first run | second run | second minus first |",
        "|---|---|---|---|",
        "| adherence | 0.500 | 0.750 | +0.250 [+0.250, +0.250] |",
        "| everything | 1.000 | 0.000 | -1.000 [-1.000, -1.000] |",
    ]


def report(adherence: list[float], prompts: list[int], policy: str = "fifo") -> dict[str, Any]:
    means = dict.fromkeys(COMPARED, adherence)
    return {
        "window_seconds": 10,
        "made": {"seconds": 240, "weights": str(adherence)},
        "policies": {policy: {"prompts": prompts, "by_prompt": means}},
    }


def test_long_runs_are_compared_where_policy_prompt_and_kind_are_the_same():
    one, two = report([0.5, 0.25, 1.0], [0, 1, 2]), report([0.5, 1.0], [1, 3])
    quarter = "+0.250 [+0.250, +0.250] 1:0"
    assert compare.longruns_table(one, two).splitlines() == [
        "| second minus first, 1 prompts | adherence | identity | speed | speed error |",
        "|---|---|---|---|---|",
        f"| fifo | {quarter} | {quarter} | +0.2 [+0.2, +0.2] 1:0 | +0.2 [+0.2, +0.2] 1:0 |",
    ]
    assert compare.longruns_table(one, report([1.0], [1], "sink")).splitlines()[2:] == []
    one["made"], two["made"] = one["made"] | {"batch": 4}, two["made"] | {"batch": 8}
    assert len(compare.longruns_table(one, two).splitlines()) == 3  # the same videos
    with pytest.raises(ValueError, match="long runs with other seconds"):
        compare.longruns_table(one, two | {"made": {"seconds": 30}})


def test_the_command_prints_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "compare.yaml"
    first, second = tmp_path / "curves", tmp_path / "runs"
    config.write_text(f"first: {first}\nsecond: {second}\nout: {tmp_path / 'out'}\n")
    monkeypatch.setattr(sys, "argv", ["compare", "--config", str(config)])
    with pytest.raises(SystemExit, match="no stage of"):
        compare.main()
    write_runs(first, second)
    compare.main()
    printed = capsys.readouterr().out
    assert "vae-0-images" in printed
    assert "prompts" not in printed
    scores = run("a", adherence=1.0, everything=True)
    (first / "scores.json").write_text(json.dumps(scores))
    (second / "samples").mkdir()
    (second / "samples" / "scores.json").write_text(json.dumps(scores))
    compare.main()
    printed = capsys.readouterr().out
    assert "| adherence | 1.000 | 1.000 | +0.000 [+0.000, +0.000] |" in printed
    assert (tmp_path / "out" / "compare.md").read_text() == printed
    (first / "longrun.json").write_text(json.dumps(report([1.0], [1])))
    (second / "longrun").mkdir()
    other = report([1.0], [1]) | {"window_seconds": 5}
    (second / "longrun" / "report.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="long runs with other window_seconds"):
        compare.main()
    assert capsys.readouterr().out == printed  # what can be compared is not lost
