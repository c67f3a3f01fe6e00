"""Clips whose truth is known."""

from __future__ import annotations

import numpy as np

from tethercache.evaluation import world


def clip(
    seed: int, num_frames: int, config: world.WorldConfig
) -> tuple[np.ndarray, np.ndarray, world.Scene]:
    """Pixels, masks and the truth of a seed's clip."""
    scene = world.sample_scene(seed, config)
    pixels, masks = world.render(scene, num_frames)
    return pixels, masks, scene
