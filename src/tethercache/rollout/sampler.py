"""The few-step flow sampler of Self-Forcing.

Axes: latents `[B, C, F, h, w]`. With sigma the noise level, x_t = (1 - sigma) x0 + sigma eps and
the model predicts the flow v = eps - x0. A step computes x0 = x_t - sigma v and re-noises it to the
next level with a fresh draw; the last x0 is the result (`docs/reference.md`, section 2).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from diffusers.schedulers import FlowMatchLCMScheduler
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """The noise levels of the few steps, highest first.

    Attributes:
        timesteps: what the model is told, 0..1000.
        sigmas: the noise levels in [0, 1] that belong to them.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def from_scheduler(cls, scheduler: FlowMatchLCMScheduler, sigmas: list[float]) -> Steps:
        """Let the scheduler shift `sigmas` (1, .75, .5, .25 for Self-Forcing) once.

        Only its tables are used: its `step()` draws noise of its own and counts steps, so it can
        serve neither counter-based noise nor the next chunk. The scheduler itself stays as it is.
        """
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(sigmas=list(sigmas))
        return cls(
            timesteps=tuple(scheduler.timesteps.tolist()),
            # the table ends with the sigma after the last step, 0
            sigmas=tuple(scheduler.sigmas[: len(sigmas)].tolist()),
        )

    def __len__(self) -> int:
        return len(self.timesteps)


def denoise(
    predict_flow: Callable[[Tensor, float], Tensor],
    draw: Callable[[int], Tensor],
    steps: Steps,
    on_step_end: Callable[[int, float, Tensor], Tensor] | None = None,
) -> Tensor:
    """Make one chunk of clean latents.

    Args:
        predict_flow: the model: noisy latents `[B, C, F, h, w]` and timestep to flow.
        draw: noise by draw number; 0 is the initial noise, i the re-noising before step i.
        steps: the noise levels.
        on_step_end: is told step, timestep and the latents after each step, at the noise level of
            the next one, and returns those to go on with.

    Returns:
        Clean latents `[B, C, F, h, w]`, in the dtype of the noise.
    """
    latents = draw(0)
    for step, (timestep, sigma) in enumerate(zip(steps.timesteps, steps.sigmas, strict=True)):
        flow = predict_flow(latents, timestep)
        latents = (latents.float() - sigma * flow.float()).to(latents.dtype)
        if step + 1 < len(steps):
            noise, sigma = draw(step + 1), steps.sigmas[step + 1]
            latents = ((1 - sigma) * latents.float() + sigma * noise.float()).to(noise.dtype)
        if on_step_end is not None:
            latents = on_step_end(step, timestep, latents)
    return latents
