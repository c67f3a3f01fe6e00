"""A little world that is rendered, not filmed: captioned clips whose truth is known.

A `Scene` is a full description (background, time of day, objects, camera) and is a pure function
of a seed. Everything that moves is periodic or reflects at the borders, so a scene is defined for
minutes and any frame can be rendered on its own. Objects are saturated and bright, backgrounds are
not: that is what `training.oracle` relies on. Shapes are signed distances, so their edges are
smooth.

Axes: F frames, N objects, H rows, W columns; coordinates in pixels, y downwards; time in frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

SIZE = 64
FPS = 16
HORIZON = 24

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
CROWD = {1: 1.0, 2: 1.0, 3: 0.72}  # half widths shrink when so many share the picture
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
LANDMARKS = ("tree", "house", "rock")

# A turning camera looks around a ring: it comes back to a place every `TURN / TURN_SPEED` frames.
TURN = 320  # pixels around the ring, five pictures
TURN_SPEED = 2  # pixels a frame: a token a latent frame, so that what returns lies as it lay
SIGNS = 5  # coloured shapes that stand around it, evenly but for some pixels
OPEN_GROUND = ("grass", "sand", "water", "snow")  # what a turning camera looks over
TINT = {"noon": 0.09, "sunset": 0.08, "night": 0.06}  # of the sky, once around the colour circle

# colours of sky (top, at the horizon) and light on the ground, for each time of day
SKY = {
    "noon": ((0.56, 0.70, 0.84), (0.78, 0.86, 0.92)),
    "sunset": ((0.50, 0.44, 0.58), (0.90, 0.70, 0.60)),
    "night": ((0.05, 0.06, 0.14), (0.12, 0.15, 0.25)),
}
LIGHT = {"noon": (1.0, 1.0, 1.0), "sunset": (0.86, 0.70, 0.64), "night": (0.33, 0.37, 0.48)}
OBJECT_LIGHT = {"noon": 1.0, "sunset": 0.92, "night": 0.80}
GROUND = {
    "grass": (0.42, 0.58, 0.34),
    "sand": (0.84, 0.76, 0.58),
    "water": (0.34, 0.52, 0.62),
    "snow": (0.92, 0.94, 0.97),
    "city": (0.46, 0.46, 0.49),
    "brick": (0.58, 0.57, 0.55),
}
WALL = (0.64, 0.46, 0.40)


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


def sample_scene(seed: int, config: WorldConfig = WorldConfig()) -> Scene:
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


def render(scene: Scene, frames: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Render frames of a scene.

    Args:
        scene: what to draw.
        frames: frame numbers `[F]`, or a count (the first so many frames).

    Returns:
        pixels uint8 `[F, H, W, 3]` and visible object masks bool `[F, N, H, W]`.
    """
    frames = np.arange(frames) if isinstance(frames, int) else np.asarray(frames)
    image = _backdrop(scene, frames.astype(np.float64))
    rows, cols = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    masks = np.zeros((len(frames), len(scene.things), SIZE, SIZE), bool)
    for n, thing in enumerate(scene.things):
        x, y, angle = (
            value[:, None, None].astype(np.float32)
            for value in positions(thing, frames.astype(np.float64)).T
        )
        image, alpha = _painted(image, thing, cols - x, rows - y, angle, scene.time)
        solid = alpha > 0.5
        masks[:, :n] &= ~solid[:, None]
        masks[:, n] = solid
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), masks


def _painted(
    image: np.ndarray,
    thing: Thing | Sign,
    dx: np.ndarray,
    dy: np.ndarray,
    angle: np.ndarray | np.float32,
    time: str,
) -> tuple[np.ndarray, np.ndarray]:
    """An image `[..., H, W, 3]` with a thing on it, and its opacity `[..., H, W]`."""
    distance, shade = _shape(thing, dx, dy, angle)
    alpha = np.clip(0.5 - distance / 1.5, 0, 1)
    base = np.asarray(COLOURS[thing.colour], np.float32) * OBJECT_LIGHT[time]
    return image + alpha[..., None] * (base * shade[..., None] - image), alpha


def _shape(
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


def _backdrop(scene: Scene, frames: np.ndarray) -> np.ndarray:
    """Sky, ground and landmarks, float `[F, H, W, 3]`; static unless the camera moves."""
    if scene.signs:
        around = ring(scene)
        left = scene.start + TURN_SPEED * frames.astype(int)
        columns = (left[:, None] + np.arange(SIZE)) % TURN
        return around[:, columns].transpose(1, 0, 2, 3)
    rng = np.random.default_rng(scene.seed)
    width = SIZE * 3 if scene.pan else SIZE
    still = _panorama(scene, rng, width)
    if not scene.pan:
        return np.broadcast_to(still, (len(frames), SIZE, SIZE, 3))
    left = SIZE + scene.pan * np.sin(2 * np.pi * frames / scene.pan_period)
    whole = np.floor(left).astype(int)
    part = (left - whole)[:, None, None, None].astype(np.float32)
    columns = whole[:, None] + np.arange(SIZE)
    first, second = still[:, columns], still[:, columns + 1]
    return first.transpose(1, 0, 2, 3) * (1 - part) + second.transpose(1, 0, 2, 3) * part


def _panorama(scene: Scene, rng: np.random.Generator, width: int) -> np.ndarray:
    rows, cols = np.mgrid[0:SIZE, 0:width].astype(np.float32)
    light = np.asarray(LIGHT[scene.time], np.float32)
    top, low = (np.asarray(c, np.float32) for c in SKY[scene.time])
    height = np.clip(rows / HORIZON, 0, 1)[..., None]
    sky = top + (low - top) * height
    phase = rng.uniform(0, 2 * np.pi, 4).astype(np.float32)
    tone = np.asarray(GROUND[scene.background], np.float32) * float(rng.uniform(0.95, 1.05))
    depth = (rows - HORIZON) / (SIZE - HORIZON)
    texture = 0.03 * np.sin(cols / 9 + phase[0]) * np.sin(rows / 6 + phase[1])
    if scene.background == "grass":
        texture = texture + 0.05 * np.sin(cols * np.pi / 4 + 2 * np.sin(rows * np.pi / 8))
    elif scene.background == "sand":
        texture = texture + 0.05 * np.sin(rows * np.pi / 5 + 1.5 * np.sin(cols / 10 + phase[2]))
    elif scene.background == "water":
        texture = texture + 0.07 * np.sin(rows * np.pi / 4) * np.sin(cols / 5 + rows / 8 + phase[2])
    elif scene.background == "snow":
        texture = 0.6 * texture + 0.04 * np.sin(cols / 12 + rows / 7 + phase[2])
    ground = tone * (1 - 0.16 * (1 - depth) + texture)[..., None] * light
    edge = np.clip(rows - HORIZON + 0.5 + 1.2 * np.sin(cols / 11 + phase[3]), 0, 1)[..., None]
    if scene.background == "brick":
        edge = np.clip(rows - 47.5, 0, 1)[..., None]
        course = np.floor(rows / 8)
        joint = (rows % 8 >= 7) | ((cols + 8 * (course % 2)) % 16 >= 15)
        wall = np.asarray(WALL, np.float32) * (1 + 0.05 * np.sin(cols / 7 + phase[0]))[..., None]
        sky = np.where(joint[..., None], wall * 1.28, wall) * light
    elif scene.background == "city":
        sky = _skyline(scene, rng, sky, rows, cols, width)
        edge = np.clip(rows - 43.5, 0, 1)[..., None]
    image = sky + edge * (ground - sky)
    for kind, x in scene.landmarks:
        image = _landmark(image, kind, x + SIZE, rows, cols, light)
    return image.astype(np.float32)


def ring(scene: Scene) -> np.ndarray:
    """All that a turning camera sees, `[H, TURN, 3]`; its right edge goes on at its left.

    The sky's tint and the hills are the same in every scene: from them one can tell where the
    camera looks. The signs are this scene's own.
    """
    rng = np.random.default_rng(scene.seed)
    rows, cols = np.mgrid[0:SIZE, 0:TURN].astype(np.float32)
    around = 2 * np.pi * cols / TURN
    light = np.asarray(LIGHT[scene.time], np.float32)
    top, low = (np.asarray(c, np.float32) for c in SKY[scene.time])
    sky = top + (low - top) * np.clip(rows / HORIZON, 0, 1)[..., None]
    hues = 2 * np.pi * np.arange(3) / 3
    tint = np.cos(around[..., None] - hues) + (1.0 if scene.time == "night" else 0.0)
    sky = sky + TINT[scene.time] * tint
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    tone = np.asarray(GROUND[scene.background], np.float32) * float(rng.uniform(0.95, 1.05))
    texture = 0.03 * np.sin(6 * around + phase[0]) * np.sin(rows / 6 + phase[1])
    if scene.background == "grass":
        texture = texture + 0.05 * np.sin(cols * np.pi / 4 + 2 * np.sin(rows * np.pi / 8))
    elif scene.background == "sand":
        wave = 1.5 * np.sin(5 * around + phase[2])
        texture = texture + 0.05 * np.sin(rows * np.pi / 5 + wave)
    elif scene.background == "water":
        wave = np.sin(10 * around + rows / 8 + phase[2])
        texture = texture + 0.07 * np.sin(rows * np.pi / 4) * wave
    else:
        texture = 0.6 * texture + 0.04 * np.sin(4 * around + rows / 7 + phase[2])
    depth = (rows - HORIZON) / (SIZE - HORIZON)
    ground = tone * (1 - 0.16 * (1 - depth) + texture)[..., None] * light
    hill = 6 + 2.5 * np.sin(3 * around + 1) + 2 * np.sin(7 * around + 2) + np.sin(13 * around)
    hills = np.clip(rows - HORIZON + hill + 0.5, 0, 1)[..., None]
    image = sky + hills * (0.72 * tone * light - sky)
    image = image + np.clip(rows - HORIZON + 0.5, 0, 1)[..., None] * (ground - image)
    for sign in scene.signs:
        dx = (cols - sign.place + TURN / 2) % TURN - TURN / 2
        below = (rows > sign.row + sign.radius) & (rows < HORIZON + 8)
        post = (np.clip(2 - np.abs(dx), 0, 1) * below)[..., None]
        image = image + post * (np.asarray((0.3, 0.28, 0.27)) * light - image)
        image, _ = _painted(image, sign, dx, rows - sign.row, np.float32(0), scene.time)
    return image.astype(np.float32)


def _skyline(
    scene: Scene,
    rng: np.random.Generator,
    sky: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    width: int,
) -> np.ndarray:
    """Houses 16 pixels wide with windows on an 8 pixel grid (lit at sunset and at night)."""
    tops = 8 * rng.integers(1, 4, width // 16)[(cols // 16).astype(int)]
    tones = rng.uniform(0.32, 0.46, width // 16)[(cols // 16).astype(int)]
    wall = tones[..., None] * np.asarray((0.98, 1.0, 1.08), np.float32)
    wall = wall * np.asarray(LIGHT[scene.time], np.float32)
    lit = {"noon": (0.60, 0.66, 0.72), "sunset": (0.86, 0.78, 0.60), "night": (0.72, 0.68, 0.50)}
    window = ((cols % 8 >= 3) & (cols % 8 < 6) & (rows % 8 >= 2) & (rows % 8 < 6))[..., None]
    house = np.where(window, np.asarray(lit[scene.time], np.float32), wall)
    return np.where((rows >= tops)[..., None], house, sky)


def _landmark(
    image: np.ndarray, kind: str, x: float, rows: np.ndarray, cols: np.ndarray, light: np.ndarray
) -> np.ndarray:
    dx = cols - x
    if kind == "tree":
        parts = [
            (np.maximum(np.abs(dx) - 2, np.abs(rows - 36) - 9), (0.36, 0.30, 0.26)),
            (np.hypot(dx, rows - 24) - 9, (0.26, 0.38, 0.27)),
        ]
    elif kind == "house":
        parts = [
            (np.maximum(np.abs(dx) - 9, np.abs(rows - 38) - 8), (0.72, 0.68, 0.64)),
            (np.maximum(rows - 30, np.abs(dx) + 20 - rows), (0.44, 0.36, 0.36)),
        ]
    else:
        parts = [(np.hypot(dx / 1.5, rows - 44) - 7, (0.46, 0.46, 0.48))]
    for distance, colour in parts:
        alpha = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image + alpha * (np.asarray(colour, np.float32) * light - image)
    return image


def clip(
    seed: int, num_frames: int, config: WorldConfig = WorldConfig()
) -> tuple[np.ndarray, np.ndarray, Scene]:
    """Pixels uint8 `[F, H, W, 3]`, masks bool `[F, N, H, W]` and the truth of a seed's clip."""
    scene = sample_scene(seed, config)
    pixels, masks = render(scene, num_frames)
    return pixels, masks, scene
