"""Traces say what happened: for every policy, by hand, and for the golden runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.golden.runner import repeat
from tests.golden.test_golden import FOLDER
from tests.policies.test_contract import BASES, PAIRS, SPECS
from tests.rollout.test_changes import NEW, begin
from tests.trace.runs import follow, trace
from tethercache.policies import POLICIES
from tethercache.rollout import Action, Plan
from tethercache.trace import Tracer, memory_of

SMALL = "tethercache:sink=1,memory=4,recent=4"


@pytest.mark.parametrize(
    "name",
    [
        "run_tc_main",
        pytest.param("run_tc_tau0", marks=pytest.mark.slow),
        pytest.param("run_fifo_s3", marks=pytest.mark.slow),
    ],
)
def test_a_trace_agrees_with_the_decisions_of_the_official_code(name: str) -> None:
    with repeat(FOLDER, FOLDER / f"{name}.safetensors", "float64") as repeated:
        tracer = Tracer()
        tracer.watch(repeated.session)
        chunks = follow(repeated.rollout, tracer)
    golden, policy = repeated.golden, repeated.policy
    assert len(chunks) == repeated.plan.num_chunks > 7
    if name == "run_fifo_s3":
        for chunk in chunks:
            newest = range(max(policy.sink_size, chunk["stop"] - 18), chunk["stop"])
            first = range(min(policy.sink_size, chunk["stop"]))
            for layer in chunk["layers"]:
                assert layer["seen"] == layer["kept"] == [*first, *newest]
                assert layer["decisions"] == []
        return
    for chunk, expected in zip(chunks, golden["mem_idx"].tolist(), strict=True):
        for layer, memory in zip(chunk["layers"], expected, strict=True):
            size = policy.sink_size
            full = len(layer["kept"]) == policy.budget
            assert not full or layer["kept"][size : size + len(memory)] == sorted(memory)
    decided = [chunk for chunk in chunks if chunk["layers"][0]["decisions"]]
    assert [chunk["chunk"] for chunk in decided] == golden["grab_chunk"].tolist()
    for event, chunk in enumerate(decided):
        for number, layer in enumerate(chunk["layers"]):
            _agrees(layer, {key: golden[f"grab_{key}"][event, number] for key in _THEIRS})


def test_the_decision_on_the_page_about_traces_is_that_of_the_official_code() -> None:
    page = (ROOT / "docs/traces.md").read_text("utf-8")
    shown = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \| ", page, re.M)
    stays = re.findall(r"^\| \d+ \| .* \| (stays|comes in|goes|is turned away) \|$", page, re.M)
    golden = load_file(FOLDER / "run_tc_main.safetensors")
    event, layer = golden["grab_chunk"].tolist().index(14), 1
    frames, mass, diversity, score, keep = (
        golden[f"grab_{name}"][event, layer]
        for name in ("cand_idx", "mass", "div", "score", "keep")
    )
    assert len(shown) == len(stays) == len(frames)
    for place, row, outcome in zip(frames.argsort().tolist(), shown, stays, strict=True):
        numbers = (f"{x[place].item():.4f}" for x in (mass, diversity, score))
        rank = (score > score[place]).sum().item() + 1
        assert row == (str(frames[place].item()), *numbers, str(rank))
        new = frames[place] >= 38
        expected = ("is turned away", "comes in") if new else ("goes", "stays")
        assert outcome == expected[int(keep[place])]


_THEIRS = {"cand_idx": "frames", "keep": "keep", "mass": "mass", "div": "diversity"}


def _agrees(layer: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Candidates, who stays, both terms; and what follows: who came in, and who is gone."""
    (decision,) = layer["decisions"]
    order = {frame: i for i, frame in enumerate(golden["cand_idx"].tolist())}
    assert {*decision["frames"]} == {*order}
    places = [order[frame] for frame in decision["frames"]]
    keep = golden["keep"][places].bool().tolist()
    assert decision["keep"] == keep
    for theirs in ("mass", "div"):
        ours = torch.tensor(decision[_THEIRS[theirs]])
        torch.testing.assert_close(ours, golden[theirs][places], atol=2e-6, rtol=1e-5)
    stays = dict(zip(decision["frames"], keep, strict=True))
    hidden = layer["hidden"]
    assert len(hidden) == 3
    assert layer["admitted"] == [frame for frame in hidden if stays[frame]]
    assert layer["dropped"] == sorted(frame for frame, kept in stays.items() if not kept)


@pytest.mark.parametrize(
    "spec",
    [
        *BASES,
        "tethercache + recency + async-admission",
        *(pytest.param(spec, marks=pytest.mark.slow) for spec in (*SPECS, *PAIRS)),
    ],
)
def test_every_policy_can_be_traced_and_every_frame_is_accounted_for(spec: str) -> None:
    policy, tracer = POLICIES.parse(spec), Tracer()
    rollout = begin(spec, plan=Plan(33))
    tracer.watch(rollout.session)
    before: list[set[int]] = [set() for _ in rollout.session.caches()]
    for _ in range(rollout.plan.num_chunks):
        (chunk,) = follow(rollout, tracer, 1)
        assert json.loads(json.dumps(chunk, allow_nan=False)) == chunk
        own = {*range(chunk["start"], chunk["stop"])}
        for bank, held, layer in zip(
            rollout.session.caches(), before, chunk["layers"], strict=True
        ):
            assert layer["kept"] == sorted(bank.frame_index[0, : bank.readable].tolist())
            here = {*layer["kept"], *layer["stored"]}
            assert here | {*layer["dropped"]} == held | own
            assert not here & {*layer["dropped"]}
            assert {*layer["admitted"]} <= here - own
            assert own <= {*layer["seen"]} <= held | own
            assert len(layer["seen"]) <= policy.budget
            for read in layer["reads"]:
                readable = layer["kept" if "context" in read["passes"] else "seen"]
                assert {*(read["frames"] or ())} <= {*readable}
            held.clear()
            held.update(here)
            passes = {name for read in layer["reads"] for name in read["passes"]}
            assert passes >= {0, 1}


@pytest.mark.parametrize("spec", [SMALL, "sink:window=9 + recency + dysink-gate"])
def test_being_observed_changes_no_bit(spec: str) -> None:
    plain, rollout = begin(spec, plan=Plan(24)), begin(spec, plan=Plan(24))
    tracer = Tracer()
    tracer.watch(rollout.session)
    for one, other in zip(plain, rollout, strict=True):
        assert torch.equal(one, other)


def test_a_window_by_hand() -> None:
    chunks = trace("sink:sink=1,window=7", 12)
    one, two, three, four = (chunk["layers"][1] for chunk in chunks)
    assert (one["seen"], two["dropped"]) == ([0, 1, 2], [])
    assert three["seen"] == [0, 3, 4, 5, 6, 7, 8]
    assert three["dropped"] == [1, 2]
    assert four["kept"] == [0, 6, 7, 8, 9, 10, 11]
    assert four["reads"] == [{"passes": [0, 1], "frames": None, "bias": None}]
    assert chunks[3]["layers"][0]["reads"][0]["passes"] == [0, 1, "context"]


def test_what_a_pass_does_not_read_is_said() -> None:
    last = trace("sink:sink=1,window=9 + commit-read:newest=4", 15)[-1]["layers"][0]
    assert last["reads"] == [
        {"passes": [0, 1], "frames": None, "bias": None},
        {"passes": ["context"], "frames": [11, 12, 13, 14], "bias": None},
    ]


def test_a_bias_is_said_frame_by_frame() -> None:
    last = trace("sink:sink=1,window=12 + recency:beta=4,gamma=0.5", 24)[-1]["layers"][0]
    first, second, context = last["reads"]
    distance = {13: 3, 14: 3, 15: 2, 16: 2, 17: 2, 18: 1, 19: 1, 20: 1, 21: 0}
    for read, gamma in ((first, 1.0), (second, 2.0)):
        bias = dict(zip(read["frames"] or last["seen"], read["bias"], strict=True))
        assert bias.pop(0) == 0
        for frame, chunks in distance.items():
            if chunks > 1 and frame in bias:
                assert bias[frame] == pytest.approx(-4 * ((chunks - 1) / 4) ** gamma, rel=1e-5)
    assert context["passes"] == ["context"]


def test_two_reads_of_one_pass_are_both_there() -> None:
    first = trace("anchor:sink=1,window=12,anchors=2,every=3,steps=1", 24)[-1]["layers"][0]
    both = [read for read in first["reads"] if 0 in read["passes"]]
    assert [read["frames"] for read in both][1] == [1, 4]
    assert len(both) == 2


@pytest.mark.parametrize(
    ("spec", "mark", "frames"),
    [
        ("ema-sink:sink=1,window=9,alpha=0.5", "merged", [0]),
        ("memrope:sink=1,window=9", "merged", [1, 2]),
        ("deep-forcing:sink=1,window=9,compressed=5,recent=3", "packed", [1]),
        ("rolling-sink:window=9,opening=3", "merged", [9, 10, 11, 12, 13, 14]),
        ("sink:window=9", "", []),
    ],
)
def test_frames_that_hold_more_than_they_showed_are_told_apart(
    spec: str, mark: str, frames: list[int]
) -> None:
    last = trace(spec, 18)[-1]
    for layer in last["layers"]:
        assert layer["marks"] == ({mark: frames} if mark else {})
    found = {each["frame"]: each for each in memory_of(last)["frames"]}
    assert all(found[frame]["marks"] == [mark] for frame in frames)


def test_recalled_frames_are_aligned_where_tau_says_so() -> None:
    came: set[int] = set()
    left: set[int] = set()
    for chunk in trace(f"{SMALL},tau=0.5"):
        layer = chunk["layers"][0]
        came |= {*layer["admitted"]}
        # what leaves with this chunk is aligned while it is seen
        assert {*layer["marks"].get("aligned", ())} == came & {*layer["seen"], *layer["kept"]}
        left |= came & {*layer["dropped"]}
    assert left
    assert all("aligned" not in c["layers"][0]["marks"] for c in trace(f"{SMALL},tau=0"))


def test_pins_and_what_is_forgotten() -> None:
    chunks = trace(SMALL, 27, {4: [Action(pin=(5, 6)), Action(forget=(0, 1))]})
    assert chunks[3]["changes"] == chunks[5]["changes"] == []
    assert chunks[4]["changes"] == [
        {"change": "pin", "start": 5, "stop": 6},
        {"change": "forget", "start": 0, "stop": 1},
    ]
    for chunk in chunks[4:]:
        for layer in chunk["layers"]:
            assert (layer["marks"]["forgotten"], layer["marks"]["pinned"]) == ([0], [5])
            denoising, *context = layer["reads"]
            assert denoising["frames"] == layer["seen"][1:]
            assert all(read["frames"] == layer["kept"][1:] for read in context)
    (pinned,) = [each for each in memory_of(chunks[5])["frames"] if "pinned" in each["marks"]]
    assert (pinned["frame"], pinned["share"]) == (5, 1.0)


@pytest.mark.parametrize("how", ["soft", "cut", "recache"])
def test_changes_of_the_prompt_are_there(how: str) -> None:
    chunks = trace(SMALL, 27, {5: [Action(NEW, how)]})
    said = [change["change"] for change in chunks[5]["changes"]]
    assert said == {"soft": ["switch"], "cut": ["switch", "cut"]}.get(
        how, ["switch", *["replay"] * 3]
    )
    layer = chunks[5]["layers"][0]
    if how == "cut":
        assert layer["seen"] == [0, 13, 14, 15, 16, 17]
    if how == "recache":
        again = [f for change in chunks[5]["changes"][1:] for f in change["frames"]]
        assert len(again) == 9
        assert {*layer["dropped"]} >= {*chunks[4]["layers"][0]["kept"]} - {*again}
        assert layer["marks"] == {} or "aligned" in layer["marks"]


def test_a_trace_goes_on_where_another_was_left() -> None:
    for spec in (SMALL, "memrope:sink=1,window=9", "relax:window=7,stored=9"):
        whole = trace(spec)
        rollout, tracer = begin(spec, plan=Plan(33)), Tracer()
        tracer.watch(rollout.session)
        first = follow(rollout, tracer, 6)
        state = json.loads(json.dumps(tracer.state_dict()))
        again, other = begin(spec, plan=Plan(33)), Tracer()
        again.load_state_dict(rollout.state_dict())
        other.load_state_dict(state)
        other.watch(again.session)
        assert first + follow(again, other) == whole


def test_one_sample_of_a_batch_is_traced() -> None:
    alone = trace(SMALL, 24, samples=(1,))
    rollout, tracer = begin(SMALL, plan=Plan(24), samples=(0, 1)), Tracer(1)
    tracer.watch(rollout.session)
    for one, other in zip(follow(rollout, tracer), alone, strict=True):
        assert [layer["seen"] for layer in one["layers"]] == [x["seen"] for x in other["layers"]]


def test_the_memory_of_a_chunk_by_hand() -> None:
    def layer(seen: list[int], scores: list[float | None], **marks: list[int]) -> dict[str, Any]:
        return {"seen": seen, "scores": scores, "marks": marks}

    chunk = {
        "sink": 1,
        "recent": 2,
        "layers": [
            layer([0, 2, 8, 9], [None, 0.5, None, None], pinned=[2]),
            layer([0, 2, 8, 9], [None, 0.25, None, None]),
            layer([0, 3, 8, 9], [None, 0.75, None, None], aligned=[3]),
            layer([0, 3, 8, 9], [None, None, None, None], merged=[3, 9]),
        ],
    }
    assert memory_of(chunk) == {
        "layers": 4,
        "frames": [
            {"frame": 0, "role": "sink", "share": 1.0, "score": None, "marks": []},
            {"frame": 2, "role": "memory", "share": 0.5, "score": 0.375, "marks": ["pinned"]},
            {
                "frame": 3,
                "role": "memory",
                "share": 0.5,
                "score": 0.75,
                "marks": ["aligned", "merged"],
            },
            {"frame": 8, "role": "recent", "share": 1.0, "score": None, "marks": []},
            {"frame": 9, "role": "recent", "share": 1.0, "score": None, "marks": ["merged"]},
        ],
    }
