from __future__ import annotations

import numpy as np
import pytest

from tethercache.resampling import bounds, interval, resamples


def test_all_values_are_drawn_alike_in_parts_of_bounded_size() -> None:
    parts = list(resamples(3, draws=2_500))
    assert [part.shape for part in parts] == [(1000, 3), (1000, 3), (500, 3)]
    counts = np.bincount(np.concatenate(parts).ravel(), minlength=3)
    assert counts.sum() == 7_500
    assert (abs(counts - 2_500) < 200).all()
    assert not np.array_equal(parts[0], parts[1])


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    assert interval(values, draws=500) == interval(np.array(values), draws=500)
    assert interval(values, draws=500) != interval(values, draws=500, seed=1)


def test_the_interval_is_that_of_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    error = values.std() / 20
    low, high = interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    narrow = interval(values, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_a_statistic_of_choice_and_values_that_are_missing() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 90.0]
    assert interval(values, np.median, confidence=0.8) == (1.0, 1.0)
    low, high = interval([*values, np.nan], np.nanmean)
    assert 1 <= low < high < 90
    assert bounds(np.array([np.nan, *range(101)]), 0.9) == pytest.approx((5, 95))


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        interval([])
