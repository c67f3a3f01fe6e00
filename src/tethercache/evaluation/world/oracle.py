"""Reads a decoded clip and says what is in it, without a learned model.

Objects are the saturated, bright pixels; the nearest palette hue is their colour (all objects of a
scene differ in colour). A colour's mask is compared with masks that the renderer draws for every
shape, radius and angle; the best overlap names the shape, and below `MIN_OVERLAP` it is no shape
at all. So a long smear is none, but a compact blob has the name of the shape that it resembles
most, which is the right one by chance once in five times. The background is the nearest of empty
scenes that the renderer draws, by the colours and the roughness of horizontal bands. The words for
sizes and motions are not read.

Axes: F frames, H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tethercache.evaluation.world.drawing import render
from tethercache.evaluation.world.grammar import BACKGROUNDS, COLOURS, SHAPES, TIMES
from tethercache.evaluation.world.scene import FPS, Scene, Thing
from tethercache.evaluation.world.shapes import outline

MIN_PIXELS = 35  # so many show an object; at most a sixth of any of one or two that is in sight
REACH = 18  # an object's pixels lie so near to their middle, in pixels
MIN_OVERLAP = 0.65
PATCH = 41  # side of the window in which a mask is compared with templates
BANDS = 8


@dataclass(frozen=True)
class Sighting:
    """One object in one frame.

    `shape` is "" if nothing fits; `overlap` is the best fit's IoU; so many `pixels` of its colour
    are near its middle, and so many are `elsewhere`: parts of another object.
    """

    shape: str
    overlap: float
    pixels: int
    centre: tuple[float, float]
    elsewhere: int


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in one frame: objects by colour."""

    background: str
    time: str
    objects: dict[str, Sighting]


@dataclass(frozen=True)
class Score:
    """A clip against its prompt.

    Attributes:
        adherence: mean over `attributes`.
        everything: all of them are right, and no other object is there.
        attributes: the background, and colour and shape of every object.
        time: the time of day is right; not one of the attributes.
    """

    adherence: float
    everything: bool
    attributes: dict[str, bool]
    time: bool


def read(frames: np.ndarray) -> list[Reading]:
    """Read every frame of uint8 `[F, H, W, 3]`."""
    colours = colour_map(frames)
    scenes = _backgrounds(frames, colours >= 0)
    readings = []
    for image, (background, time) in zip(colours, scenes, strict=True):
        objects = {}
        for number, name in enumerate(COLOURS):
            mask = image == number
            if mask.sum() >= MIN_PIXELS:
                sighting = _sight(mask)
                if sighting.pixels >= MIN_PIXELS:
                    objects[name] = sighting
        readings.append(Reading(background, time, objects))
    return readings


def score(readings: list[Reading], truth: Scene, *, majority: bool = True) -> Score:
    """Colour and shape of every object and the background, each by majority over the frames.

    A colour is there if at least half of the frames show it. Its shape is right if more than half
    of those do, the background if more than half of all frames do. Without `majority` the commonest
    reading wins (of equally common ones the one seen first), as the few frames of a second vote.
    """
    need = len(readings) / 2

    def wins(wanted: str, votes: list[str]) -> bool:
        count = Counter(votes)
        won = count[wanted] > len(votes) / 2
        return won or (not majority and bool(votes) and count.most_common(1)[0][0] == wanted)

    attributes = {"background": wins(truth.background, [r.background for r in readings])}
    for thing in truth.things:
        seen = [r.objects[thing.colour] for r in readings if thing.colour in r.objects]
        present = len(seen) >= need
        attributes[f"{thing.colour}: colour"] = present
        right = present and wins(thing.shape, [sighting.shape for sighting in seen])
        attributes[f"{thing.colour}: shape"] = right
    wanted = {thing.colour for thing in truth.things}
    others = Counter(
        colour
        for reading in readings
        for colour, sighting in reading.objects.items()
        if colour not in wanted or sighting.elsewhere >= MIN_PIXELS
    )
    values = list(attributes.values())
    everything = all(values) and all(count < need for count in others.values())
    time = wins(truth.time, [r.time for r in readings])
    return Score(float(np.mean(values)), everything, attributes, time)


def adherence_per_second(readings: list[Reading], truth: Scene, fps: int = FPS) -> np.ndarray:
    """Adherence of each second on its own, `[seconds]` (a last part of a second is left out).

    `fps` is how many frames of a second were read; their commonest readings count.
    """
    parts = _seconds(readings, fps)
    return np.array([score(part, truth, majority=False).adherence for part in parts])


def identity_per_second(
    readings: list[Reading], reference_seconds: int = 5, fps: int = FPS
) -> np.ndarray:
    """How much of each second still shows the objects of the clip's own first seconds, `[seconds]`.

    For every colour seen in most of the reference: half a point if most frames show it, the other
    half if its commonest shape is the same and its mean area is within a third. What had no shape
    and still has none is the same. NaN where there is no object.
    """
    reference = _summary(readings[: reference_seconds * fps])
    result = []
    for part in _seconds(readings, fps):
        present = _summary(part)
        points = []
        for colour, (shape, area) in reference.items():
            same = colour in present and present[colour][0] == shape
            same = same and abs(np.log(present[colour][1] / area)) < np.log(4 / 3)
            points.append(0.5 * (colour in present) + 0.5 * same)
        result.append(np.mean(points) if points else np.nan)
    return np.array(result)


def speed(readings: list[Reading], colour: str, fps: int = FPS) -> float:
    """Mean speed of the object of a colour in pixels a second; NaN if it is hardly there.

    Taken over a quarter of a second, so that a jitter of a pixel from frame to frame counts little.
    """
    step = max(1, fps // 4)
    gaps = [
        np.hypot(*np.subtract(b.objects[colour].centre, a.objects[colour].centre)) * fps / step
        for a, b in zip(readings[:-step], readings[step:], strict=True)
        if colour in a.objects and colour in b.objects
    ]
    return _mean(gaps)


def speed_per_second(readings: list[Reading], truth: Scene, fps: int = FPS) -> np.ndarray:
    """Mean speed of a scene's objects in each second, `[seconds]`, pixels a second; see `speed`."""
    return np.array(
        [
            _mean([speed(part, thing.colour, fps) for thing in truth.things])
            for part in _seconds(readings, fps)
        ]
    )


def _mean(values: list[float]) -> float:
    """Mean of those that are not NaN; NaN if none is left."""
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")


def _seconds(readings: list[Reading], fps: int) -> list[list[Reading]]:
    return [readings[i : i + fps] for i in range(0, len(readings) - fps + 1, fps)]


def _summary(readings: list[Reading]) -> dict[str, tuple[str, float]]:
    """Colour -> (commonest shape, mean area) of what at least half of the frames show."""
    result = {}
    for colour in COLOURS:
        seen = [r.objects[colour] for r in readings if colour in r.objects]
        if len(seen) >= len(readings) / 2:
            shape = Counter(s.shape for s in seen).most_common(1)[0][0]
            result[colour] = (shape, float(np.mean([s.pixels for s in seen])))
    return result


def colour_map(frames: np.ndarray) -> np.ndarray:
    """Index of the palette colour of each object pixel, -1 elsewhere: int `[F, H, W]`."""
    rgb = frames.astype(np.float32) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    palette = np.asarray(list(COLOURS.values()), np.float32)
    distance = np.abs(_hue(rgb)[..., None] - _hue(palette))
    nearest = np.minimum(distance, 6 - distance).argmin(-1)
    return np.where((high - low > 0.33) & (high - low > 0.58 * high), nearest, -1)


def with_margin(masks: np.ndarray) -> np.ndarray:
    """Masks `[F, H, W]` with what lies within two pixels of them, up and down or to the sides."""
    grown = masks.copy()
    for axis in (1, 2):
        for shift in (-2, -1, 1, 2):
            grown |= np.roll(masks, shift, axis)
    return grown


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Hue in [0, 6): red 0, green 2, blue 4."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    high, low = rgb.max(-1), rgb.min(-1)
    chroma = np.maximum(high - low, 1e-6)
    hue = np.where(high == r, (g - b) / chroma, np.where(high == g, 2 + (b - r) / chroma, 0))
    return np.where((high == b) & (high != r) & (high != g), 4 + (r - g) / chroma, hue) % 6


def _sight(mask: np.ndarray) -> Sighting:
    """Fit a shape to the pixels of one colour, bool `[H, W]`."""
    rows, cols = np.nonzero(mask)
    y, x = np.median(rows), np.median(cols)
    near = np.hypot(rows - y, cols - x) < REACH
    pixels, elsewhere = int(near.sum()), int((~near).sum())
    if pixels < MIN_PIXELS:
        return Sighting("", 0.0, pixels, (float(x), float(y)), elsewhere)
    rows, cols = rows[near], cols[near]
    y, x = rows.mean(), cols.mean()
    patch = np.zeros((PATCH, PATCH), np.float32)
    py, px = rows - round(y) + PATCH // 2, cols - round(x) + PATCH // 2
    inside = (py >= 0) & (py < PATCH) & (px >= 0) & (px < PATCH)
    patch[py[inside], px[inside]] = 1
    templates, areas, names = _templates()
    common = templates @ patch.ravel()
    overlap = common / (areas + patch.sum() - common)
    best = int(overlap.argmax())
    shape = names[best] if overlap[best] >= MIN_OVERLAP else ""
    return Sighting(shape, float(overlap[best]), pixels, (float(x), float(y)), elsewhere)


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Masks of all shapes, centred on their own centroid: `[n, PATCH*PATCH]`, areas and names."""
    grid = np.arange(-(PATCH + 9) // 2, (PATCH + 9) // 2 + 1, dtype=np.float32)
    dx, dy = np.meshgrid(grid, grid)
    masks, names = [], []
    for shape in SHAPES:
        turns = {"cube": 4, "pyramid": 3, "star": 5}.get(shape)
        angles = np.arange(8) / 8 * 2 * np.pi / turns if turns else np.zeros(1)
        for radius in np.arange(7.0, 14.6, 0.5):
            thing = Thing("red", shape, "big", "float", radius, (0, 0), (0, 0), 1, 0)
            for shift in (0.0, 0.5):
                for angle in angles:
                    distance, _ = outline(thing, dx[None] - shift, dy[None], np.float32(angle))
                    rows, cols = np.nonzero(distance[0] < 0)
                    row = round(rows.mean()) - PATCH // 2
                    col = round(cols.mean()) - PATCH // 2
                    full = np.zeros((len(grid), len(grid)), np.float32)
                    full[rows, cols] = 1
                    masks.append(full[row : row + PATCH, col : col + PATCH].ravel())
                    names.append(shape)
    stack = np.stack(masks)
    return stack, stack.sum(1), names


def _band_features(rgb: np.ndarray, empty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour and roughness of horizontal bands without the objects.

    Args:
        rgb: `[F, H, W, 3]` in [0, 1].
        empty: bool `[F, H, W]`, where no object is.

    Returns:
        features `[F, BANDS, 5]` and how many pixels each band's features rest on `[F, BANDS]`.
    """
    frames, height, width, _ = rgb.shape
    bands = (frames, BANDS, height // BANDS * width)
    weight = empty.reshape(bands).astype(np.float32)
    total = np.maximum(weight.sum(-1), 1)
    mean = (rgb.reshape(*bands, 3) * weight[..., None]).sum(2) / total[..., None]
    grey = rgb.mean(-1)
    rough = []
    for axis in (1, 2):
        both = empty & np.roll(empty, 1, axis)
        step = np.abs(grey - np.roll(grey, 1, axis)) * both
        rough.append(step.reshape(bands).sum(-1) / np.maximum(both.reshape(bands).sum(-1), 1))
    return np.concatenate([mean, 2 * np.stack(rough, -1)], -1), weight.sum(-1)


@lru_cache(maxsize=1)
def _empty_scenes() -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Features `[n, BANDS, 5]` and names of empty scenes: all backgrounds and times."""
    names = [(b, t) for b in BACKGROUNDS for t in TIMES for _ in range(8)]
    images = np.concatenate(
        [render(Scene(b, t, (), 77 + i), 1)[0] for i, (b, t) in enumerate(names)]
    )
    rgb = images.astype(np.float32) / 255
    return _band_features(rgb, np.ones(rgb.shape[:3], bool))[0], names


def _backgrounds(frames: np.ndarray, objects: np.ndarray) -> list[tuple[str, str]]:
    """Background and time of each frame; `objects` `[F, H, W]` are left out, with a margin."""
    features, support = _band_features(frames.astype(np.float32) / 255, ~with_margin(objects))
    references, names = _empty_scenes()
    gap = np.abs(features[:, None] - references[None]).sum(-1)
    distance = (gap * support[:, None]).sum(-1)
    return [names[i] for i in distance.argmin(1)]
