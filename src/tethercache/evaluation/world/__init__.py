"""A little world that is rendered, not filmed: captioned videos whose truth is known.

`sample_scene` draws a scene and its caption, `render` draws its frames, `oracle` reads what a video
shows and scores it against a scene, `revisits` reads what a place shows when the camera comes back.
The shipped model was trained on it, so that adherence, identity and memory of that model's videos
are measured, not guessed. Needs NumPy only.
"""

from tethercache.evaluation.world.backdrop import ring
from tethercache.evaluation.world.drawing import render
from tethercache.evaluation.world.grammar import (
    BACKGROUNDS,
    CAMERA_PHRASES,
    COLOURS,
    MOTIONS,
    SHAPES,
    TIMES,
    caption,
    vocabulary,
)
from tethercache.evaluation.world.sampling import (
    HELD_OUT,
    held_out,
    held_out_scenes,
    sample_scene,
)
from tethercache.evaluation.world.scene import (
    FPS,
    SIGNS,
    SIZE,
    TURN,
    TURN_SPEED,
    Scene,
    Sign,
    Thing,
    WorldConfig,
    positions,
)

__all__ = [
    "BACKGROUNDS",
    "CAMERA_PHRASES",
    "COLOURS",
    "FPS",
    "HELD_OUT",
    "MOTIONS",
    "SHAPES",
    "SIGNS",
    "SIZE",
    "TIMES",
    "TURN",
    "TURN_SPEED",
    "Scene",
    "Sign",
    "Thing",
    "WorldConfig",
    "caption",
    "held_out",
    "held_out_scenes",
    "positions",
    "render",
    "ring",
    "sample_scene",
    "vocabulary",
]
