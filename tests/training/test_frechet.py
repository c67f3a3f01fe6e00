"""The Fréchet distance between videos and renders, and its interval over prompts."""

import numpy as np
import pytest

from training import frechet


def test_frechet_is_the_squared_shift_of_equal_clouds():
    rng = np.random.default_rng(2)
    groups = [rng.normal(size=(n, 12)) for n in (200, 120, 80)]
    every = np.arange(3)
    still = frechet.Clouds(groups).fit(every)
    moved = frechet.Clouds([group + 0.5 for group in groups]).fit(every)
    assert frechet.distance(still, still) == pytest.approx(0, abs=1e-6)
    assert frechet.distance(moved, still) == pytest.approx(12 * 0.25, rel=1e-6)


def test_clouds_fit_the_features_of_the_drawn_prompts():
    rng = np.random.default_rng(4)
    groups = [rng.normal(size=(n, 5)) + 3 for n in (20, 7, 11)]
    mean, cov = frechet.Clouds(groups).fit(np.array([1, 2, 1]))
    together = np.concatenate([groups[1], groups[2], groups[1]])
    np.testing.assert_allclose(mean, together.mean(0))
    np.testing.assert_allclose(cov, np.cov(together, rowvar=False))


def test_frechet_interval_holds_the_value_and_narrows_with_more_prompts():
    rng = np.random.default_rng(3)

    def made(prompts: int) -> list[list[float]]:
        content = rng.normal(0, 3, size=(prompts, 1, 6))  # what a prompt shows
        fault = rng.normal(1, 0.5, size=(prompts, 1, 6))  # what is wrong with its videos

        def frames(shift: np.ndarray) -> list[np.ndarray]:
            return list(content + shift + rng.normal(size=(prompts, 40, 6)))

        renders = frames(np.zeros(6))
        one, other = (frechet.distances(frames(f), renders) for f in (fault, 2 * fault))
        return [frechet.interval(draws) for draws in (one, other - one)]

    (few, _), (many, gap) = made(8), made(200)
    for value, low, high in (few, many, gap):
        assert low < value < high
    assert many[2] - many[1] < (few[2] - few[1]) / 2
    assert 5 < many[0] < 8
    assert gap[1] > 10  # the other videos are farther away, beyond doubt
