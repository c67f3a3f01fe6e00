"""A whole run at toy size: what it times, what it reports, and what it makes of the numbers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from tests.bench.toy import DEVICE, TOY
from tethercache.bench import default_cases, run
from tethercache.bench.report import Report, Row, verdicts
from tethercache.bench.run import contestants, measure
from tethercache.bench.statistics import Ratio
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window

NAMES = ["bare", "fifo", "sink", "control", "tethercache"]


@pytest.fixture(scope="module")
def report() -> Report:
    patch = pytest.MonkeyPatch()
    patch.setattr(run, "matrix_peak", lambda *_: 1e9)
    try:
        return measure({"toy": TOY}, ["tethercache"], device=DEVICE, chunks=2)
    finally:
        patch.undo()


def test_the_windows_have_the_sizes_of_the_policy() -> None:
    assert contestants(["tethercache:sink=2,memory=6,recent=4"]) == {
        "bare": None,
        "fifo": Window(window=12),
        "sink": Window(sink=2, window=12),
        "control": Window(sink=2, window=12),
        "tethercache:sink=2,memory=6": TetherCache(2, 6, 4),
    }
    assert list(contestants(["fifo", "sink", "tethercache"])) == NAMES
    assert "bare" not in contestants(["tethercache"], bare=False)
    with pytest.raises(ValueError, match="the same K: `sink:window=12` reads 12"):
        contestants(["tethercache", "sink:window=12"])


def test_the_large_model_is_for_a_gpu() -> None:
    assert default_cases(DEVICE) == ["small", "block", "tiny"]
    assert default_cases(torch.device("cuda"))[-1] == "1.3b"


def test_every_contestant_has_a_row_with_what_the_table_needs(report: Report) -> None:
    made = json.loads(json.dumps(report.as_json()))
    assert [(entry["case"], entry["policy"]) for entry in made["cases"]] == [
        ("toy", name) for name in NAMES
    ]
    for entry in made["cases"]:
        assert entry["ms_per_chunk"] > 0
        assert entry["chunks"] == len(entry["laps_ms"]) == 2
        assert entry["peak_memory_mb"] > entry["state_mb"] > 0
        low, high = entry["interval_to_sink"]
        assert low <= entry["ratio_to_sink"] <= high
        split = entry["split_ms"]
        assert sum(split.values()) == pytest.approx(entry["ms_per_chunk"], rel=1e-3)
        assert sum(entry["cache_ms"].values()) == pytest.approx(split["cache"], rel=1e-3)
        assert min(split["transformer"], split["cache"], split["waiting"]) > 0
        assert entry["tflop_per_second"] == pytest.approx(entry["share_of_matrix_peak"] * 1e-3)
    by_name = {entry["policy"]: entry for entry in made["cases"]}
    assert by_name["fifo"]["ratio_to_fifo"] == by_name["sink"]["ratio_to_sink"] == 1
    assert by_name["bare"]["admission_mb"] is None
    assert by_name["tethercache"]["cache_ms"].keys() >= {"open", "commit", "rotate", "measure"}
    assert {"machine", "versions", "threads", "dtype", "date", "quiet"} <= made.keys()


def test_the_memory_of_a_cache_is_what_its_tensors_take(report: Report) -> None:
    state = {row.policy: row.state_bytes for row in report.rows}
    frame = 2 * 6 * 24 * 4  # layers x tokens x width x bytes
    # readable keys and values, readable keys again as they are read; 3 staged frames
    assert state["fifo"] == state["sink"] == state["control"]
    statistics = 4 * 2 * 24 * 4
    assert state["tethercache"] - state["fifo"] == pytest.approx(3 * (2 * frame + statistics), 0.3)
    # the bare transformer keeps no unrotated keys and no statistics
    assert state["fifo"] - state["bare"] == pytest.approx(21 * (frame + statistics), 0.1)


def row(policy: str, *, sink: float = 1.0, bare: float = 1.0, admission: int | None = None) -> Row:
    empty = {"transformer": 1.0, "cache": 0.0, "waiting": 0.0, "decode": 0.0}
    ratios = [Ratio(median, median - 0.01, median + 0.01) for median in (1.0, sink, bare)]
    return Row(
        *("case", policy, 10.0, 20.0, 0.01, [1.0]),
        *ratios,
        *(empty, {}, 10.0, 12, 10**9, 10**8, admission),
        *(10**12, 1e11, 0.5, "float32"),
    )


@pytest.mark.parametrize(
    ("control", "bare", "ours", "admission", "met"),
    [
        (1.02, 1.05, 1.05, 200_000_000, [True, True, True, True]),
        (0.979, 1.0, 1.0, 10, [False, True, True, True]),
        (1.021, 1.051, 1.051, 200_000_001, [False, False, False, False]),
    ],
)
def test_goals_are_met_or_missed(
    control: float, bare: float, ours: float, admission: int, met: list[bool]
) -> None:
    rows = [
        row("bare"),
        row("sink", bare=bare),
        row("control", sink=control),
        row("tethercache", sink=ours, admission=admission),
    ]
    case = dataclasses.replace(TOY, full_size=True)
    found = verdicts(rows, {"case": case})
    assert [verdict.met for verdict in found] == met
    assert [verdict.control for verdict in found] == [True, False, False, False]
    assert str(found[0]).endswith("quiet enough" if met[0] else "too noisy, run this again")
    assert len(verdicts(rows[1:], {"case": TOY})) == 3  # the goal for memory is of real dimensions


def test_frames_a_second_count_the_decode_or_do_not() -> None:
    made = row("tethercache")
    assert made.frames_per_second == pytest.approx(1200)
    assert made.frames_per_second_decoded == pytest.approx(600)
    assert dataclasses.replace(made, decode_ms=None).frames_per_second_decoded is None
    assert math.isclose(made.as_json()["tflop_per_second"], 0.1)
