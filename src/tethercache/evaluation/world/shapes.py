"""Objects and signs as pixels: signed distances, so that edges are smooth.

Axes: F frames, H rows, W columns.
"""

from __future__ import annotations

import math

import numpy as np

from tethercache.evaluation.world.grammar import COLOURS
from tethercache.evaluation.world.scene import Sign, Thing

OBJECT_LIGHT = {"noon": 1.0, "sunset": 0.92, "night": 0.80}


def painted(
    image: np.ndarray,
    thing: Thing | Sign,
    dx: np.ndarray,
    dy: np.ndarray,
    angle: np.ndarray | np.float32,
    time: str,
) -> tuple[np.ndarray, np.ndarray]:
    """An image `[..., H, W, 3]` with a thing on it, and its opacity `[..., H, W]`."""
    distance, shade = outline(thing, dx, dy, angle)
    alpha = np.clip(0.5 - distance / 1.5, 0, 1)
    base = np.asarray(COLOURS[thing.colour], np.float32) * OBJECT_LIGHT[time]
    return image + alpha[..., None] * (base * shade[..., None] - image), alpha


def outline(
    thing: Thing | Sign, dx: np.ndarray, dy: np.ndarray, angle: np.ndarray | np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to a shape's outline (negative inside) and its shading, both `[F, H, W]`."""
    r = thing.radius
    radius = np.hypot(dx, dy)
    shade = np.clip(1 - 0.16 * (dx + 1.4 * dy) / r, 0.7, 1.2).astype(np.float32)
    if thing.shape == "ball":
        return radius - r, shade
    if thing.shape == "ring":
        return np.abs(radius - 0.78 * r) - 0.24 * r, shade
    theta = np.arctan2(dx, -dy) - angle  # 0 is up
    sides = {"cube": 4, "pyramid": 3, "star": 5}[thing.shape]
    theta = theta + np.pi / 4 if thing.shape == "cube" else theta
    wedge = np.pi / sides
    fold = np.abs((theta + wedge) % (2 * wedge) - wedge)  # 0 at a corner, `wedge` between corners
    u, v = radius * np.cos(fold), radius * np.sin(fold)
    outer = r * {"cube": 1.18, "pyramid": 1.22, "star": 1.24}[thing.shape]
    inner = outer * (0.44 if thing.shape == "star" else math.cos(wedge))
    px, py = inner * math.cos(wedge) - outer, inner * math.sin(wedge)
    return ((u - outer) * py - v * px) / math.hypot(px, py), shade
