"""Two training runs side by side: what is compared, over which steps and which prompts."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from training import compare


def write_curve(path: Path, losses: list[float], began: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{20 * (i + 1)},{i},{loss}" for i, loss in enumerate(losses)]
    path.write_text("\n".join(["step,seconds,loss", *rows]) + "\n")
    os.utime(path, (began, began))


def write_runs(first: Path, second: Path) -> None:
    write_curve(first / "vae-0-images.csv", [9, 3, 3, 3, 1, 1, 1, 1], 0)
    write_curve(first / "a-teacher-1-window.csv", [0.5, 0.25], 0)
    write_curve(first / "student-0-first.csv", [1.0], 0)  # the second run has not come to it
    write_curve(second / "vae" / "0-images.csv", [8, 2, 2, 5], 1)
    write_curve(second / "a-teacher" / "1-window.csv", [0.5, 0.75], 2)
    write_curve(second / "student" / "0-first.csv", [], 3)


def test_stages_are_compared_up_to_the_steps_that_both_have(tmp_path: Path):
    first, second = tmp_path / "curves", tmp_path / "runs"
    write_runs(first, second)
    assert compare.curves_table(first, second).splitlines()[2:] == [
        "| vae-0-images | 80 | loss | 3 ± 0 | 5 ± 0 |",
        "| a-teacher-1-window | 40 | loss | 0.25 ± 0 | 0.75 ± 0 |",
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
    later = {"adherence": adherence, "identity": adherence, "speed": adherence}
    return {"seconds": 240, "policies": {policy: {"prompts": prompts, "later": later}}}


def test_long_runs_are_compared_where_policy_prompt_and_length_are_the_same():
    one, two = report([0.5, 0.25, 1.0], [0, 1, 2]), report([0.5, 1.0], [1, 3])
    row = "| fifo | +0.250 [+0.250, +0.250] | +0.250 [+0.250, +0.250] | +0.2 [+0.2, +0.2] |"
    assert compare.longruns_table(one, two).splitlines()[2:] == [row]
    assert compare.longruns_table(one, report([1.0], [7])).splitlines()[2:] == []
    assert compare.longruns_table(one, report([1.0], [1], "sink")).splitlines()[2:] == []
    with pytest.raises(ValueError, match="240 and 30 s"):
        compare.longruns_table(one, two | {"seconds": 30})


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
    assert "| adherence | 1.000 | 1.000 | +0.000 [+0.000, +0.000] |" in capsys.readouterr().out
