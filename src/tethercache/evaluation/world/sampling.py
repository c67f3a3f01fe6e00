"""Scenes drawn by seed, with captions, and those that no model was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tethercache.evaluation.world.grammar import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TIMES,
    caption,
)
from tethercache.evaluation.world.scene import (
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

STANDARD = WorldConfig()
HELD_OUT = 900_000_000  # scenes of seeds from here on are never trained on
CROWD = {1: 1.0, 2: 1.0, 3: 0.72}  # half widths shrink when so many share the picture
LANDMARKS = ("tree", "house", "rock")
OPEN_GROUND = ("grass", "sand", "water", "snow")  # what a turning camera looks over


def sample_scene(seed: int, config: WorldConfig = STANDARD) -> Scene:
    """Draw a scene and its caption; the same seed and config give the same scene."""
    kind = np.random.default_rng((seed, 1))  # other draws than the rest, which it leaves as it is
    if kind.random() < config.turn_probability:
        return _sample_turning(kind)
    hard = kind.random() < config.corners
    rng = np.random.default_rng(seed)
    background = str(rng.choice(list(BACKGROUNDS)))
    time = str(rng.choice(list(TIMES)))
    weights = np.asarray(config.object_weights) / sum(config.object_weights)
    count = 1 + int(rng.choice(len(weights), p=weights))
    pans = rng.random() < config.pan_probability
    pan = float(rng.uniform(24, 48)) if pans else 0.0
    pan_period = float(rng.uniform(240, 400))
    spots = np.sort(rng.uniform(-40, 104, 3))
    landmarks = tuple((str(rng.choice(LANDMARKS)), float(x)) for x in spots) if pans else ()
    colours = rng.choice(list(COLOURS), size=count, replace=False)
    while True:
        things = tuple(
            _sample_thing(rng, str(colour), CROWD[count], corners=hard and not n)
            for n, colour in enumerate(colours)
        )
        if _visible_half_the_time(things, config.clip_frames):
            break
    scene = Scene(background, time, things, int(rng.integers(2**31)), pan, pan_period, landmarks)
    return replace(scene, caption=caption(scene, rng))


def _sample_turning(rng: np.random.Generator) -> Scene:
    """A scene with a turning camera: signs above, one thing that keeps below them."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))]
    pitch = TURN / SIGNS
    signs = tuple(
        Sign(
            colours[n],
            str(rng.choice(list(SHAPES))),
            float(rng.uniform(11, 12)),
            (n + 0.5) * pitch + int(rng.integers(-10, 11)),
            float(rng.uniform(16, 18)),
        )
        for n in range(SIGNS)
    )
    thing = _sample_thing(rng, colours[SIGNS], 1.0)
    motion, low = str(rng.choice(["roll", "drift", "float"])), SIZE - thing.radius - 2
    reach = {"roll": (low - SIZE / 2, 0.0), "drift": (low - SIZE / 2, 2.0), "float": (2.0, 2.0)}
    period = {"roll": (72, 104), "drift": (110, 160), "float": (40, 56)}
    middle = float(rng.uniform(thing.radius + 8, low - 6)) if motion == "float" else SIZE / 2
    thing = replace(
        thing,
        motion=motion,
        centre=(middle, low - (0.0 if motion == "roll" else 2.0)),
        reach=reach[motion],
        period=float(rng.uniform(*period[motion])),
    )
    scene = Scene(
        str(rng.choice(OPEN_GROUND)),
        str(rng.choice(list(TIMES))),
        (thing,),
        int(rng.integers(2**31)),
        signs=signs,
        start=4 * TURN_SPEED * int(rng.integers(TURN // (4 * TURN_SPEED))),
    )
    return replace(scene, caption=caption(scene, rng))


def _sample_thing(
    rng: np.random.Generator, colour: str, scale: float, *, corners: bool = False
) -> Thing:
    shape, size = str(rng.choice(list(SHAPES))), str(rng.choice(list(SIZES)))
    motion = str(rng.choice(list(MOTIONS)))
    if corners:
        shape, motion = str(rng.choice(["cube", "star"])), "roll"
    r = scale * (SIZES[size] + float(rng.uniform(-0.5, 0.5)))
    lo, hi = r + 2, SIZE - r - 2
    period, phase = float(rng.uniform(72, 104)), float(rng.uniform())
    mid = float(rng.uniform(SIZE * 0.45, SIZE * 0.55))
    if motion == "roll":
        centre, reach = (SIZE / 2, float(rng.uniform(SIZE * 0.6, hi))), (SIZE / 2 - lo, 0.0)
    elif motion == "bounce":
        centre = (float(rng.uniform(lo + 6, hi - 6)), hi - float(rng.uniform(0, 6)))
        reach, period = (6.0, float(rng.uniform(22, 28))), float(rng.uniform(24, 32))
    elif motion == "orbit":
        reach = (float(rng.uniform(12, 15)), float(rng.uniform(11, 14)))
        centre, period = (mid, mid), float(rng.uniform(48, 72))
    elif motion == "drift":
        centre, reach = (SIZE / 2, SIZE / 2), (SIZE / 2 - lo, float(rng.uniform(8, 18)))
        period = float(rng.uniform(110, 160))
    else:
        centre = (float(rng.uniform(lo + 6, hi - 6)), float(rng.uniform(lo + 6, hi - 6)))
        reach, period = (2.0, 5.0), float(rng.uniform(40, 56))
    return Thing(colour, shape, size, motion, r, centre, reach, period, phase)


def _visible_half_the_time(things: tuple[Thing, ...], num_frames: int) -> bool:
    """True if every thing is clear of all others in more than half of the clip's frames."""
    frames = np.arange(num_frames, dtype=np.float64)
    tracks = [positions(thing, frames)[:, :2] for thing in things]
    for i, thing in enumerate(things):
        clear = np.ones(num_frames, bool)
        for j, other in enumerate(things):
            if i != j:
                gap = np.linalg.norm(tracks[i] - tracks[j], axis=-1)
                clear &= gap > 1.15 * (thing.radius + other.radius)
        if clear.mean() < 0.55:
            return False
    return True


def held_out(scene: Scene) -> bool:
    """True if it has a colour-shape-background triple that the transformer never trains on."""
    colours, shapes, grounds = list(COLOURS), list(SHAPES), list(BACKGROUNDS)
    return any(
        (
            7 * colours.index(t.colour)
            + 3 * shapes.index(t.shape)
            + 5 * grounds.index(scene.background)
        )
        % 11
        == 0
        for t in scene.things
    )


def held_out_scenes(count: int, config: WorldConfig, first: int = HELD_OUT) -> list[Scene]:
    """The first `count` scenes from seed `first` on that hold a never-trained combination."""
    scenes: list[Scene] = []
    seed = first
    while len(scenes) < count:
        scene = sample_scene(seed, config)
        scenes += [scene] if held_out(scene) else []
        seed += 1
    return scenes
