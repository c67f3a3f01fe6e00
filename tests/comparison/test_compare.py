"""A comparison of policies on a toy model: the same noise, resumable, no difference of the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import tethercache as tc
from tests.cli.test_generate import PROMPT
from tethercache.cli import main
from tethercache.comparison import Plan, Unit, compare, of_prompts, run, summarise
from tethercache.comparison.units import units
from tethercache.video import read_sidecar

PROMPTS = (PROMPT, "a blue ball rolling over sand", "a red ball rolling over sand")
FULL = "fifo:window=21"  # the same as `fifo`, by another name


@pytest.fixture
def request_(model: Path) -> tc.VideoRequest:
    return tc.VideoRequest(PROMPT, latent_frames=6, model=str(model), seed=3, device="cpu")


def plan(request: tc.VideoRequest, *policies: str, seeds: int = 1) -> Plan:
    return Plan(request, policies, tuple(of_prompts(PROMPTS)), seeds)


def test_policies_share_their_noise_and_the_same_policy_differs_in_nothing(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    made: list[Unit] = []
    summary = compare(["fifo", FULL], PROMPTS, tmp_path, request=request_, done=made.append)
    assert [(u.prompt, u.policy) for u in made] == [
        (p, s) for p in range(3) for s in ("fifo", FULL)
    ]
    assert summary.complete
    gaps = summary.differences[FULL]
    assert gaps, "nothing was measured"
    for found in gaps.values():
        assert (found.mean, found.low, found.high, found.prompts) == (0.0, 0.0, 0.0, 3)
    hashes = {u.path: read_sidecar(u.path).frames_hash for u in made}
    assert len(set(hashes.values())) == 3
    # the video of a unit is the one that its request makes alone
    (second,) = (u for u in made if u.policy == FULL and u.prompt == 1)
    asked = plan(request_, "fifo", FULL).request_for(FULL, 1, 0)
    assert (asked.seed, asked.sample, asked.prompt) == (3, 1, PROMPTS[1])
    assert tc.make(asked, tmp_path / "alone.mp4").frames_hash == hashes[second.path]


@pytest.mark.slow
def test_it_goes_on_where_it_broke_off_and_can_be_given_more(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    first = plan(request_, "fifo", "sink")
    going = run(first, tmp_path)
    done = [next(going) for _ in range(3)]
    going.close()
    partial = summarise(first, tmp_path)
    assert not partial.complete
    assert dict(partial.videos) == {"fifo": 2, "sink": 1}
    assert {found.prompts for found in partial.differences["sink"].values()} == {1}
    before = {unit.path: unit.path.read_bytes() for unit in done}
    assert len(list(run(first, tmp_path))) == 3
    assert list(run(first, tmp_path)) == []
    more = plan(request_, "fifo", "sink", "tethercache", seeds=2)
    assert len(list(run(more, tmp_path))) == 18 - 6
    assert {path: path.read_bytes() for path in before} == before
    assert summarise(more, tmp_path).complete


def test_a_reading_of_another_video_is_read_again(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    both = plan(request_, "fifo")
    list(run(both, tmp_path))
    one, two, _ = units(both, tmp_path)
    two.reading_path.write_bytes(one.reading_path.read_bytes())
    assert two.reading() is None
    assert [unit.prompt for unit in run(both, tmp_path)] == [1]
    one.reading_path.write_text("{")
    assert [unit.prompt for unit in run(both, tmp_path)] == [0]


def test_videos_of_something_else_are_refused(request_: tc.VideoRequest, tmp_path: Path) -> None:
    list(run(plan(request_, "fifo"), tmp_path))
    longer = dataclasses.replace(request_, latent_frames=9)
    with pytest.raises(ValueError, match="other latent_frames; take another folder"):
        list(run(plan(longer, "fifo"), tmp_path))
    with pytest.raises(ValueError, match="other first_seed"):
        list(run(plan(dataclasses.replace(request_, seed=4), "fifo"), tmp_path))
    unit = units(plan(request_, "fifo"), tmp_path)[0]
    unit.reading_path.unlink()
    others = Plan(request_, ("fifo",), tuple(of_prompts([f"{PROMPT}!"])))
    with pytest.raises(ValueError, match="another prompt"):
        list(run(others, tmp_path))


@pytest.mark.parametrize(
    ("policies", "prompts", "says"),
    [
        ([], [PROMPT], "at least one policy"),
        (["fifo", " fifo "], [PROMPT], "given twice: fifo, fifo"),
        (["fifo", "fivo"], [PROMPT], "fivo"),
        (["fifo"], [], "at least one prompt"),
    ],
)
def test_what_cannot_be_compared_is_said(
    policies: list[str], prompts: list[str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        compare(policies, prompts, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    folder = tmp_path / "out"
    command = ["compare", "fifo", "sink", "--prompts", str(tmp_path / "prompts.txt")]
    command += ["--model", str(model), "--latent-frames", "6", "--device", "cpu", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "-o", str(folder)])
    out, shown = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert found["policies"] == ["fifo", "sink"]
    assert found["complete"] is True
    assert set(found["differences"]) == {"sink"}
    assert "minus fifo" in shown
    assert json.loads((folder / "comparison.json").read_text()) == found
    assert "| sink |" in (folder / "comparison.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "fifo", "--prompts", "x.txt", "--scenes", "2", "-o", str(folder)])
    assert "not both" in capsys.readouterr().err
