"""How reports sum up values of prompts: intervals, differences, and both as Markdown."""

import numpy as np
import pytest

from training import summing


def test_interval_holds_the_mean_and_narrows_with_more_clips():
    rng = np.random.default_rng(1)
    mean, low, high = summing.interval(np.append(rng.normal(0.8, 0.1, 32), np.nan))
    assert low < 0.8 < high
    assert low < mean < high
    _, low_more, high_more = summing.interval(rng.normal(0.8, 0.1, 3200))
    assert high_more - low_more < (high - low) / 5


def test_differences_are_those_of_the_prompts_that_both_have():
    one, other = {"a": 1.0, "b": 0.5, "c": 0.0}, {"b": 0.25, "c": 0.25, "d": 9.0}
    assert summing.difference(one, other) == [0, -0.25, 0.25, 1, 1]
    mean, low, high, above, below = summing.difference({**one, "d": 10.0}, other)
    assert low <= mean <= high
    assert mean == pytest.approx(1 / 3, abs=1e-4)
    assert (above, below) == (2, 1)
    assert summing.difference(one, {"z": 1.0}) == []


def test_numbers_and_tables_as_markdown():
    assert summing.spelled([0.5, 0.25, 0.75], 2) == "0.50 [0.25, 0.75]"
    assert summing.spelled([0.5, -0.25, 0.75, 4, 3], 1, "+") == "+0.5 [-0.2, +0.8] 4:3"
    table = summing.markdown(["", "speed"], [["fifo", "1"], ["sink", ""]])
    assert table.splitlines() == ["| | speed |", "|---|---|", "| fifo | 1 |", "| sink | |"]
