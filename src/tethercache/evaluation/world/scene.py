"""What a scene of the rendered world is: background, time of day, objects, camera.

A `Scene` is a full description and a pure function of a seed (`sampling.py`). Everything that moves
is periodic or reflects at the borders, so a scene is defined for minutes, and any frame can be
rendered on its own.

Axes: F frames; coordinates in pixels, y downwards; time in frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

SIZE = 64
FPS = 16

# A turning camera looks around a ring: it comes back to a place every `TURN / TURN_SPEED` frames.
TURN = 320  # pixels around the ring, five pictures
TURN_SPEED = 2  # pixels a frame: a token a latent frame, so that what returns lies as it lay
SIGNS = 5  # coloured shapes that stand around it, evenly but for some pixels


@dataclass(frozen=True)
class WorldConfig:
    """What a draw of scenes contains.

    Attributes:
        object_weights: probabilities of 1, 2 and 3 objects.
        pan_probability: share of scenes with a panning camera and landmarks.
        turn_probability: share of scenes with a turning camera and signs.
        corners: share of scenes whose first thing is a cube or a star that rolls, the hardest to
            learn.
        clip_frames: pixel frames within which every object is unoccluded half of the time.
    """

    object_weights: tuple[float, ...] = (0.7, 0.25, 0.05)
    pan_probability: float = 0.15
    turn_probability: float = 0.0
    corners: float = 0.0
    clip_frames: int = 81


@dataclass(frozen=True)
class Thing:
    """One object: what it is and how it moves (all lengths in pixels, periods in frames)."""

    colour: str
    shape: str
    size: str
    motion: str
    radius: float
    centre: tuple[float, float]
    reach: tuple[float, float]
    period: float
    phase: float


@dataclass(frozen=True)
class Sign:
    """A coloured shape beside the way of a turning camera; not in the caption.

    `place` is its middle in pixels around the ring, `row` the middle's row in the picture.
    """

    colour: str
    shape: str
    radius: float
    place: float
    row: float


@dataclass(frozen=True)
class Scene:
    """The truth about a clip.

    `seed` fixes the texture; `pan` is the camera's reach in pixels (0: it does not pan). With
    `signs` the camera turns, and the picture's left edge begins at the place `start`.
    """

    background: str
    time: str
    things: tuple[Thing, ...]
    seed: int
    pan: float = 0.0
    pan_period: float = 320.0
    landmarks: tuple[tuple[str, float], ...] = ()
    signs: tuple[Sign, ...] = ()
    start: int = 0
    caption: str = field(default="", compare=False)


def positions(thing: Thing, frames: np.ndarray) -> np.ndarray:
    """Centre and angle of a thing at each frame: `[F, 3]` as (x, y, angle in radians)."""
    turn = frames / thing.period + thing.phase
    (cx, cy), (rx, ry) = thing.centre, thing.reach
    swing = _triangle(turn)
    angle = np.zeros_like(turn)
    if thing.motion == "roll":
        x, y = cx + rx * swing, np.full_like(turn, cy)
        angle = rx * swing / thing.radius
    elif thing.motion == "bounce":
        x = cx + rx * np.sin(2 * np.pi * turn / 3)
        y = cy - ry * 4 * (turn % 1) * (1 - turn % 1)
    elif thing.motion == "orbit":
        x, y = cx + rx * np.cos(2 * np.pi * turn), cy + ry * np.sin(2 * np.pi * turn)
    elif thing.motion == "drift":
        x, y = cx + rx * swing, cy + ry * _triangle(turn * 0.618 + 0.3)
    else:
        x, y = cx + rx * np.sin(np.pi * turn), cy + ry * np.sin(2 * np.pi * turn)
    return np.stack([x, y, angle], -1)


def _triangle(turn: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 in [-1, 1], with softly rounded turning points."""
    return np.arcsin(0.99 * np.sin(2 * np.pi * turn)) / math.asin(0.99)
