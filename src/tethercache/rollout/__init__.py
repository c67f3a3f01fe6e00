"""Rollout: from noise to clean latent chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports
from tethercache.rollout.actions import Action
from tethercache.rollout.plan import Chunk, Plan, frames_for_seconds, latent_frames, pixel_frames

if TYPE_CHECKING:
    from tethercache.rollout.loop import Rollout
    from tethercache.rollout.noise import CounterNoise, NoiseSource
    from tethercache.rollout.sampler import Steps, denoise

__all__ = [
    "Action",
    "Chunk",
    "CounterNoise",
    "NoiseSource",
    "Plan",
    "Rollout",
    "Steps",
    "denoise",
    "frames_for_seconds",
    "latent_frames",
    "pixel_frames",
]

# what needs torch waits until it is used
__getattr__ = exports(
    __name__,
    {
        "CounterNoise": "noise",
        "NoiseSource": "noise",
        "Rollout": "loop",
        "Steps": "sampler",
        "denoise": "sampler",
    },
)
