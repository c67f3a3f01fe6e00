"""What stands behind the objects: sky, ground, landmarks, and the ring of a turning camera.

Backgrounds are less saturated or darker than objects: that is what the oracle relies on.

Axes: F frames, H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from tethercache.evaluation.world.scene import SIZE, TURN, TURN_SPEED, Scene
from tethercache.evaluation.world.shapes import painted

HORIZON = 24
TINT = {"noon": 0.09, "sunset": 0.08, "night": 0.06}  # of the sky, once around the colour circle

# colours of sky (top, at the horizon) and light on the ground, for each time of day
SKY = {
    "noon": ((0.56, 0.70, 0.84), (0.78, 0.86, 0.92)),
    "sunset": ((0.50, 0.44, 0.58), (0.90, 0.70, 0.60)),
    "night": ((0.05, 0.06, 0.14), (0.12, 0.15, 0.25)),
}
LIGHT = {"noon": (1.0, 1.0, 1.0), "sunset": (0.86, 0.70, 0.64), "night": (0.33, 0.37, 0.48)}
GROUND = {
    "grass": (0.42, 0.58, 0.34),
    "sand": (0.84, 0.76, 0.58),
    "water": (0.34, 0.52, 0.62),
    "snow": (0.92, 0.94, 0.97),
    "city": (0.46, 0.46, 0.49),
    "brick": (0.58, 0.57, 0.55),
}
WALL = (0.64, 0.46, 0.40)


def backdrop(scene: Scene, frames: np.ndarray) -> np.ndarray:
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
    views: np.ndarray = (
        first.transpose(1, 0, 2, 3) * (1 - part) + second.transpose(1, 0, 2, 3) * part
    )
    return views


def _panorama(scene: Scene, rng: np.random.Generator, width: int) -> np.ndarray:
    """What a fixed or panning camera can see, `[H, width, 3]`."""
    rows, cols = np.mgrid[0:SIZE, 0:width].astype(np.float32)
    light = np.asarray(LIGHT[scene.time], np.float32)
    phase = rng.uniform(0, 2 * np.pi, 4).astype(np.float32)
    tone = _tone(scene, rng)
    waves = {"sand": cols / 10, "water": cols / 5 + rows / 8, "snow": cols / 12 + rows / 7}
    ground = _ground(scene.background, tone, light, rows, cols, cols / 9, waves, phase)
    sky = _sky(scene.time, rows)
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
    image: np.ndarray = sky + edge * (ground - sky)
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
    hues = 2 * np.pi * np.arange(3) / 3
    tint = np.cos(around[..., None] - hues) + (1.0 if scene.time == "night" else 0.0)
    sky = _sky(scene.time, rows) + TINT[scene.time] * tint
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    tone = _tone(scene, rng)
    waves = {"sand": 5 * around, "water": 10 * around + rows / 8, "snow": 4 * around + rows / 7}
    ground = _ground(scene.background, tone, light, rows, cols, 6 * around, waves, phase)
    hill = 6 + 2.5 * np.sin(3 * around + 1) + 2 * np.sin(7 * around + 2) + np.sin(13 * around)
    hills = np.clip(rows - HORIZON + hill + 0.5, 0, 1)[..., None]
    image: np.ndarray = sky + hills * (0.72 * tone * light - sky)
    image = image + np.clip(rows - HORIZON + 0.5, 0, 1)[..., None] * (ground - image)
    for sign in scene.signs:
        dx = (cols - sign.place + TURN / 2) % TURN - TURN / 2
        below = (rows > sign.row + sign.radius) & (rows < HORIZON + 8)
        post = (np.clip(2 - np.abs(dx), 0, 1) * below)[..., None]
        image = image + post * (np.asarray((0.3, 0.28, 0.27)) * light - image)
        image, _ = painted(image, sign, dx, rows - sign.row, np.float32(0), scene.time)
    return image.astype(np.float32)


def _sky(time: str, rows: np.ndarray) -> np.ndarray:
    """The sky, from its top to its colour at the horizon, `[H, W, 3]`."""
    top, low = (np.asarray(c, np.float32) for c in SKY[time])
    return top + (low - top) * np.clip(rows / HORIZON, 0, 1)[..., None]


def _tone(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The colour of this scene's ground."""
    return np.asarray(GROUND[scene.background], np.float32) * float(rng.uniform(0.95, 1.05))


def _ground(
    background: str,
    tone: np.ndarray,
    light: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    slow: np.ndarray,
    waves: dict[str, np.ndarray],
    phase: np.ndarray,
) -> np.ndarray:
    """The ground with its texture, `[H, W, 3]`.

    Args:
        background: what it is.
        tone: its colour.
        light: on it.
        rows: of the pixels, `[H, W]`.
        cols: of the pixels.
        slow: angle of the texture that all grounds have, along the picture.
        waves: angle of the texture that only this ground has.
        phase: what is drawn for this scene.
    """
    texture = 0.03 * np.sin(slow + phase[0]) * np.sin(rows / 6 + phase[1])
    wave = np.sin(waves[background] + phase[2]) if background in waves else 0.0
    if background == "grass":
        texture = texture + 0.05 * np.sin(cols * np.pi / 4 + 2 * np.sin(rows * np.pi / 8))
    elif background == "sand":
        texture = texture + 0.05 * np.sin(rows * np.pi / 5 + 1.5 * wave)
    elif background == "water":
        texture = texture + 0.07 * np.sin(rows * np.pi / 4) * wave
    elif background == "snow":
        texture = 0.6 * texture + 0.04 * wave
    depth = (rows - HORIZON) / (SIZE - HORIZON)
    ground: np.ndarray = tone * (1 - 0.16 * (1 - depth) + texture)[..., None] * light
    return ground


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
