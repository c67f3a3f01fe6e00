from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchLCMScheduler

from tethercache.rollout import CounterNoise, Steps, denoise

SIGMAS = [1.0, 0.75, 0.5, 0.25]


def test_the_scheduler_gives_the_official_warped_steps() -> None:
    steps = Steps.from_scheduler(FlowMatchLCMScheduler(shift=5.0), SIGMAS)
    assert steps.timesteps == pytest.approx((1000, 937.5, 833.3333, 625), abs=1e-3)
    assert steps.sigmas == pytest.approx((1, 0.9375, 0.8333333, 0.625), abs=1e-6)


def test_a_model_that_knows_the_answer_recovers_it() -> None:
    answer = torch.randn(1, 4, 3, 2, 2)
    steps = Steps.from_scheduler(FlowMatchLCMScheduler(shift=5.0), SIGMAS)
    sigma_of = dict(zip(steps.timesteps, steps.sigmas, strict=True))

    def perfect_flow(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return (x - answer) / sigma_of[timestep]  # eps - x0, from x_t = (1 - s) x0 + s eps

    drawn = []

    def draw(i: int) -> torch.Tensor:
        drawn.append(i)
        return torch.randn(answer.shape)

    torch.testing.assert_close(denoise(perfect_flow, draw, steps), answer, atol=1e-5, rtol=1e-5)
    assert drawn == [0, 1, 2, 3]


def test_every_draw_has_its_own_noise_that_depends_on_its_name_only() -> None:
    shape = (2, 3, 4, 5)
    noise = CounterNoise(seed=5, samples=(0, 1))
    one = noise(3, 1, shape)
    assert one.shape == (2, *shape)
    assert torch.equal(one, noise(3, 1, shape))
    assert torch.equal(one[1:], CounterNoise(seed=5, samples=(1,))(3, 1, shape))
    others = [noise(2, 1, shape), noise(3, 2, shape), CounterNoise(6, (0, 1))(3, 1, shape)]
    everything = torch.stack([one, *others]).flatten(0, 1)
    assert len({tuple(sample.flatten().tolist()) for sample in everything}) == 8
    assert abs(everything.mean()) < 0.1
    assert abs(everything.std() - 1) < 0.1


def test_the_noise_never_changes_between_versions() -> None:
    first = CounterNoise(0)(0, 0, (4,))[0].tolist()
    assert first == pytest.approx(FIRST_NOISE, abs=1e-6)


FIRST_NOISE = [-0.999197, -1.601683, 1.396712, 0.911482]
