from __future__ import annotations

import numpy as np
import pytest

from tethercache.bench.statistics import paired_ratio, spread


def test_a_machine_that_slows_down_for_both_leaves_their_ratio_alone() -> None:
    reference = [1.0, 5.0, 2.0, 9.0, 1.5, 3.0, 7.0]
    ratio = paired_ratio([1.04 * seconds for seconds in reference], reference)
    assert ratio.median == pytest.approx(1.04)
    assert (ratio.low, ratio.high) == pytest.approx((1.04, 1.04))


def test_the_median_is_of_ratios_not_a_ratio_of_medians() -> None:
    # the medians are equal
    assert paired_ratio([3.0, 1.0, 2.0], [1.0, 2.0, 3.0]).median == pytest.approx(2 / 3)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = []
    for trial in range(200):
        found = paired_ratio(1 + 0.05 * random.standard_normal(9), [1.0] * 9, draws=400, seed=trial)
        hits.append(found.low <= 1 <= found.high)
    assert 0.88 <= np.mean(hits) <= 1


def test_the_interval_of_a_known_sample_is_that_of_all_its_resamples() -> None:
    # of the 27 resamples of three values, 7 have the smallest as their median, 13 the middle
    found = paired_ratio([1.0, 2.0, 4.0], [1.0] * 3, draws=100_000, confidence=0.4)
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
    found = paired_ratio([1.0, 2.0, 4.0], [1.0] * 3, draws=100_000, confidence=0.6)
    assert (found.low, found.high) == (1.0, 4.0)


@pytest.mark.parametrize(("ours", "reference"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_paired_is_refused(ours: list[float], reference: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_ratio(ours, reference)


def test_spread_is_relative_to_the_median() -> None:
    assert spread([10.0, 20.0, 30.0]) == pytest.approx(0.5)
    assert spread([2.0, 2.0, 2.0]) == 0
