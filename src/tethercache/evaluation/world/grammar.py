"""The words of the rendered world: what a scene can hold, and how a caption says it."""

from __future__ import annotations

import numpy as np

from tethercache.evaluation.world.scene import Scene

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.08, 0.10),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (0.98, 0.90, 0.10),
    "green": (0.08, 0.78, 0.16),
    "cyan": (0.06, 0.86, 0.90),
    "blue": (0.10, 0.24, 0.95),
    "purple": (0.52, 0.12, 0.88),
    "pink": (1.00, 0.30, 0.72),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"),
    "cube": ("cube", "box"),
    "pyramid": ("pyramid", "triangle"),
    "star": ("star",),
    "ring": ("ring", "hoop"),
}
SIZES: dict[str, float] = {"small": 11.0, "big": 13.5}  # half width in pixels
MOTIONS: dict[str, tuple[str, ...]] = {
    "roll": ("rolling", "rolling along"),
    "bounce": ("bouncing", "jumping"),
    "orbit": ("orbiting", "circling"),
    "drift": ("drifting", "gliding"),
    "float": ("floating", "hovering"),
}
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "grass": ("over grass", "on a meadow", "over green grass"),
    "sand": ("over sand", "in the desert", "on the beach"),
    "water": ("over water", "above the sea", "over the lake"),
    "snow": ("over snow", "on a snowy field"),
    "city": ("in front of a city", "in the city"),
    "brick": ("in front of a brick wall", "by a brick wall"),
}
TIMES: dict[str, tuple[str, ...]] = {
    "noon": ("at noon", "in the daylight"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "in the moonlight"),
}
CAMERA_PHRASES = ("while the camera pans slowly", "seen by a panning camera")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the grammar's paraphrases for a scene."""
    parts = []
    for thing in scene.things:
        size = f"{thing.size} " if rng.random() < 0.4 else ""
        words = f"{size}{thing.colour} {rng.choice(SHAPES[thing.shape])}"
        article = "an" if words[0] in "aeiou" else "a"
        parts.append(f"{article} {words} {rng.choice(MOTIONS[thing.motion])}")
    text = " and ".join(parts) + f" {rng.choice(BACKGROUNDS[scene.background])}"
    when = str(rng.choice(TIMES[scene.time]))
    text = f"{when} {text}" if rng.random() < 0.2 else f"{text} {when}"
    return f"{text} {rng.choice(CAMERA_PHRASES)}" if scene.pan or scene.signs else text


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    phrases = [*COLOURS, *SIZES, *CAMERA_PHRASES, "a", "an", "and"]
    for table in (SHAPES, MOTIONS, BACKGROUNDS, TIMES):
        phrases += [phrase for row in table.values() for phrase in row]
    return sorted({word for phrase in phrases for word in phrase.split()})
