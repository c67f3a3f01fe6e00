"""Rollout: from noise to clean latent chunks."""

from tethercache.rollout.loop import rollout
from tethercache.rollout.noise import CounterNoise, NoiseSource
from tethercache.rollout.plan import Chunk, Plan, frames_for_seconds, latent_frames, pixel_frames
from tethercache.rollout.sampler import Steps, denoise

__all__ = [
    "Chunk",
    "CounterNoise",
    "NoiseSource",
    "Plan",
    "Steps",
    "denoise",
    "frames_for_seconds",
    "latent_frames",
    "pixel_frames",
    "rollout",
]
