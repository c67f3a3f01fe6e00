"""Reads what a video with a turning camera shows when a place comes back.

The camera's place is read from the sky's tint and the hills, which are the same in every scene; the
signs are read by `oracle`. What a place showed at its first visit is the truth, whatever
the renderer would draw there: a video can be consistent with nothing but itself.

Axes: F frames, H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tethercache.evaluation.world import oracle
from tethercache.evaluation.world.backdrop import ring
from tethercache.evaluation.world.sampling import sample_scene
from tethercache.evaluation.world.scene import (
    FPS,
    SIGNS,
    SIZE,
    TURN,
    TURN_SPEED,
    Scene,
    WorldConfig,
)

PITCH = TURN // SIGNS  # pixels of the ring for each sign
EDGE = 12  # a sign is read while its middle is so far from the picture's edges, in pixels
SAME_PLACE = 10  # pixels between two sightings of the same sign
MIN_SIGHTINGS = 3
TOP = 30  # rows that show sky and hills
DRIFT = 7  # the camera may turn by so much more or less than it should between two frames read


@dataclass(frozen=True)
class Visit:
    """What a place showed while the camera passed it.

    Attributes:
        number: counts places along the way; visits of one place are `SIGNS` apart.
        second: when it was seen, in seconds.
        colour, shape: of the sign; "" if none was there (or it had no shape).
        place: the sign's middle, in pixels along the way (a turn is `TURN`).
    """

    number: int
    second: float
    colour: str
    shape: str
    place: float


@dataclass(frozen=True)
class Return:
    """A later visit against the first visit of the same place.

    `since` is the time since the first visit in seconds; `same` is all of colour, shape and place.
    """

    since: float
    colour: bool
    shape: bool
    place: bool

    @property
    def same(self) -> bool:
        """The same sign in the same place."""
        return self.colour and self.shape and self.place


def returns(visits: list[Visit]) -> list[Return]:
    """All returns to places that showed a sign with a shape when they were first visited."""
    first: dict[int, Visit] = {}
    found = []
    for visit in visits:
        known = first.setdefault(visit.number % SIGNS, visit)
        if known is visit or not known.shape:
            continue
        moved = (visit.place - known.place + TURN / 2) % TURN - TURN / 2
        found.append(
            Return(
                visit.second - known.second,
                visit.colour == known.colour,
                visit.shape == known.shape,
                bool(visit.colour) and abs(moved) <= SAME_PLACE,
            )
        )
    return found


def visits(
    frames: np.ndarray,
    truth: Scene,
    every: int = 4,
    readings: list[oracle.Reading] | None = None,
) -> list[Visit]:
    """What each place showed at each of its visits, from uint8 `[F, H, W, 3]`.

    Args:
        frames: every `every`-th frame of a video.
        truth: the scene of its prompt; its things are no signs.
        every: of how many frames one is there.
        readings: what `oracle.read` says of the frames, if it is known already.
    """
    readings = oracle.read(frames) if readings is None else readings
    lefts = camera(frames, truth, every)
    things = {thing.colour for thing in truth.things}
    seen: dict[int, list[tuple[str, str, float]]] = {}
    when: dict[int, list[float]] = {}
    for index, (left, reading) in enumerate(zip(lefts, readings, strict=True)):
        for number in range(int(left // PITCH), int((left + SIZE) // PITCH) + 1):
            if EDGE <= (number + 0.5) * PITCH - left <= SIZE - EDGE:
                when.setdefault(number, []).append(index * every / FPS)
        for colour, sighting in reading.objects.items():
            x, _ = sighting.centre
            if colour not in things and EDGE <= x <= SIZE - EDGE:
                number = int((left + x) // PITCH)
                seen.setdefault(number, []).append((colour, sighting.shape, left + x))
    result = []
    for number, seconds in sorted(when.items()):
        facing = (number + 0.5) * PITCH - SIZE / 2
        if lefts[0] > facing - SAME_PLACE or lefts[-1] < facing + SAME_PLACE:
            continue  # cut off by the video's beginning or end
        signs = seen.get(number, [])
        colour, count = Counter([sign[0] for sign in signs] or [""]).most_common(1)[0]
        its = [sign for sign in signs if sign[0] == colour]
        there = bool(its) and count >= MIN_SIGHTINGS
        shape = Counter(sign[1] for sign in its).most_common(1)[0][0] if there else ""
        place = float(np.median([sign[2] for sign in its])) if there else 0.0
        result.append(Visit(number, float(np.mean(seconds)), colour if there else "", shape, place))
    return result


def camera(frames: np.ndarray, truth: Scene, every: int = 4) -> np.ndarray:
    """Place of the picture's left edge in each frame, `[F]` pixels along the way, never backwards.

    The path of least difference to the empty ring; between two frames it may be `DRIFT` pixels
    longer or shorter than it should.
    """
    cost = _differences(frames, truth)
    steps = np.arange(-DRIFT, DRIFT + 1) + every * TURN_SPEED
    steps = steps[steps >= 0]
    best, back = cost[0], []
    for row in cost[1:]:
        arriving = np.stack([np.roll(best, step) for step in steps])
        choice = arriving.argmin(0)
        back.append(choice)
        best = row + arriving.min(0)
    path = [int(best.argmin())]
    moved = []
    for choice in reversed(back):
        step = int(steps[choice[path[-1]]])
        moved.append(step)
        path.append((path[-1] - step) % TURN)
    return path[-1] + np.concatenate([[0], np.cumsum(moved[::-1])]).astype(float)


def _differences(frames: np.ndarray, truth: Scene) -> np.ndarray:
    """How little each frame looks like each part of the empty ring, `[F, TURN]`."""
    ring = _empty_ring(truth.background, truth.time)
    empty = ~oracle.with_margin(oracle.colour_map(frames) >= 0)[:, :TOP]
    columns = (np.arange(TURN)[:, None] + np.arange(SIZE)) % TURN
    views = ring[:TOP, columns].transpose(1, 0, 2, 3)  # [TURN, TOP, W, 3]
    views = views.reshape(TURN, -1)
    result = []
    for frame, mask in zip(frames[:, :TOP].astype(np.float32) / 255, empty, strict=True):
        weight = np.repeat(mask[..., None], 3, -1).astype(np.float32).ravel()
        pixels = frame.ravel() * weight
        squares = views**2 @ weight - 2 * views @ pixels + (pixels**2).sum()
        result.append(squares / max(weight.sum(), 1))
    return np.stack(result)


@lru_cache(maxsize=32)
def _empty_ring(background: str, time: str) -> np.ndarray:
    """The ring of a background and a time without signs, `[H, TURN, 3]`."""
    scene = sample_scene(0, WorldConfig(turn_probability=1.0))
    return ring(replace(scene, background=background, time=time, signs=(), seed=7))
