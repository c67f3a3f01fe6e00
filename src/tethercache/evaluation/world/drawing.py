"""Frames of a scene as pixels, with the masks of its objects.

Axes: F frames, N objects, H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from tethercache.evaluation.world.backdrop import backdrop
from tethercache.evaluation.world.scene import SIZE, Scene, positions
from tethercache.evaluation.world.shapes import painted


def render(scene: Scene, frames: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Render frames of a scene.

    Args:
        scene: what to draw.
        frames: frame numbers `[F]`, or a count (the first so many frames).

    Returns:
        pixels uint8 `[F, H, W, 3]` and visible object masks bool `[F, N, H, W]`.
    """
    frames = np.arange(frames) if isinstance(frames, int) else np.asarray(frames)
    image = backdrop(scene, frames.astype(np.float64))
    rows, cols = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    masks = np.zeros((len(frames), len(scene.things), SIZE, SIZE), bool)
    for n, thing in enumerate(scene.things):
        x, y, angle = (
            value[:, None, None].astype(np.float32)
            for value in positions(thing, frames.astype(np.float64)).T
        )
        image, alpha = painted(image, thing, cols - x, rows - y, angle, scene.time)
        solid = alpha > 0.5
        masks[:, :n] &= ~solid[:, None]
        masks[:, n] = solid
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), masks
