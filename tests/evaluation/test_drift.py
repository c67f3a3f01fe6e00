from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tethercache.evaluation.drift import (
    PROTOCOLS,
    mean_curve,
    onset,
    paired,
    start_end,
    statistics,
    vde,
)
from tethercache.evaluation.metrics.metric import Series


def line(duration: float = 60.0, fps: float = 4.0, slope: float = -1.0) -> Series:
    """A quality that falls by `-slope` a second."""
    times = np.arange(round(duration * fps)) / fps
    return Series(np.arange(len(times)), times, 100 + slope * times, duration)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [("tethercache", 58.0), ("rolling_forcing", 55.0), ("framepack", 51.0)],
)
def test_each_protocol_compares_its_own_stretches(protocol: str, expected: float) -> None:
    assert start_end(line(), protocol) == pytest.approx(expected)


def test_only_framepack_drops_the_sign() -> None:
    rising = line(slope=1.0)
    signs = {name: math.copysign(1, start_end(rising, name) or 0) for name in PROTOCOLS}
    assert signs == {"tethercache": -1, "rolling_forcing": -1, "framepack": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_stretches_of_a_short_video_do_not_overlap(protocol: str) -> None:
    short = line(duration=2.0)
    value = start_end(short, protocol)
    assert value is not None
    assert abs(value) <= 2.0


def test_nothing_to_compare_is_none_and_not_zero() -> None:
    one = Series(np.zeros(1, np.int64), np.zeros(1), np.ones(1), 1.0)
    assert start_end(one) is None
    assert vde(one) is None


def test_vde_is_the_weighted_sum_over_later_tenths() -> None:
    times = np.arange(10) + 0.5
    values = np.array([2.0] + [3.0] * 9)  # every later tenth is half above the first
    series = Series(np.arange(10), times, values, 10.0)
    linear = sum(10 - i + 1 for i in range(2, 11)) * 0.5
    logs = sum(math.log(10 - i + 1) for i in range(2, 11)) * 0.5
    assert vde(series) == pytest.approx(linear)
    assert vde(series, weights="log") == pytest.approx(logs)


def test_a_curve_has_one_value_a_second() -> None:
    assert mean_curve(line(duration=3.0)) == pytest.approx([99.625, 98.625, 97.625])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([0, 1, 9, 9, 9], 2.0),
        ([0, 9, 1, 9, 9], 3.0),  # a single second comes back at once
        ([0, 1, 1, 1, 9], 4.0),  # the last one has no next
        ([0, None, 9, None, 9], 4.0),
        ([0, 1, 2], None),
        ([], None),
    ],
)
def test_the_onset_is_where_a_curve_leaves_for_good(
    points: list[float | None], expected: float | None
) -> None:
    assert onset(points, lambda value: value > 5) == expected


def test_statistics_of_a_hand_example() -> None:
    found = statistics([-3.0, 1.0, 2.0, 4.0])
    assert (found.n, found.mean, found.mean_absolute, found.median) == (4, 1.0, 2.5, 1.5)
    assert found.interval is not None
    low, high = found.interval
    assert -3 <= low < 1 < high <= 4
    assert statistics([-3.0, 1.0, 2.0, 4.0]) == found
    assert statistics([5.0]).interval is None


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_the_interval_holds_the_mean_and_stays_among_the_values(values: list[float]) -> None:
    found = statistics(values)
    assert found.interval is not None
    low, high = found.interval
    slack = 1e-9 * max(1.0, *(abs(v) for v in values))
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert found.mean_absolute >= abs(found.mean) - slack


def test_pairs_are_resampled_together() -> None:
    baseline = [10.0, 50.0, 90.0]
    ours = [9.0, 49.0, 89.0]
    found = paired(ours, baseline, "lower")
    assert (found.wins, found.losses, found.difference.mean) == (3, 0, -1.0)
    assert found.difference.interval == (-1.0, -1.0)
    assert paired(ours, baseline, "higher").losses == 3
    assert paired(ours, baseline, "neither").wins == 0
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0], "lower")
