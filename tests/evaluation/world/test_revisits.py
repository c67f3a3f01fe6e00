from dataclasses import replace

import numpy as np
import pytest

from tethercache.evaluation import world
from tethercache.evaluation.world import revisits

TURNING = world.WorldConfig(turn_probability=1.0)
TURN = world.TURN // world.TURN_SPEED  # pixel frames


@pytest.fixture(scope="module")
def video() -> tuple[np.ndarray, world.Scene]:
    """Every fourth frame of two and a half turns."""
    scene = world.sample_scene(4, TURNING)
    return world.render(scene, np.arange(0, 5 * TURN // 2, 4))[0], scene


def test_the_cameras_place_is_read_to_the_pixel(video: tuple[np.ndarray, world.Scene]):
    frames, scene = video
    found = revisits.camera(frames, scene)
    true = scene.start + 4 * world.TURN_SPEED * np.arange(len(frames))
    gap = (found - true + world.TURN / 2) % world.TURN - world.TURN / 2
    assert np.abs(gap).max() <= 2


def test_a_render_shows_the_same_at_every_return(video: tuple[np.ndarray, world.Scene]):
    frames, scene = video
    visits = revisits.visits(frames, scene)
    for visit in visits:
        sign = scene.signs[visit.number % world.SIGNS]
        assert (visit.colour, visit.shape) == (sign.colour, sign.shape)
        assert abs((visit.place - sign.place + 160) % world.TURN - 160) <= 3
    found = revisits.returns(visits)
    assert len(found) >= 6
    assert all(one.same for one in found)
    turns = np.array([one.since for one in found]) * world.FPS / TURN
    np.testing.assert_allclose(turns, turns.round(), atol=0.05)
    assert set(turns.round()) == {1, 2}


@pytest.mark.parametrize("changed", ["colour", "shape", "place", "gone"])
def test_what_is_not_the_same_is_noticed(video: tuple[np.ndarray, world.Scene], changed: str):
    frames, scene = video
    shapes, used = list(world.SHAPES), {x.colour for x in (*scene.signs, *scene.things)}
    free = next(colour for colour in world.COLOURS if colour not in used)
    signs = tuple(
        {
            "colour": replace(sign, colour=free),
            "shape": replace(sign, shape=shapes[shapes.index(sign.shape) - 1]),
            "place": replace(sign, place=sign.place + 16),
            "gone": replace(sign, row=-60.0),
        }[changed]
        for sign in scene.signs
    )
    half = len(frames) // 2
    times = np.arange(0, 5 * TURN // 2, 4)
    other = world.render(replace(scene, signs=signs), times[half:])[0]
    mixed = np.concatenate([frames[:half], other])
    found = revisits.returns(revisits.visits(mixed, scene))
    late = [one for one in found if one.since > 1.5 * TURN / world.FPS]
    assert late
    assert not any(one.same for one in late)
    if changed != "gone":
        kept = {"colour", "shape", "place"} - {changed}
        assert np.mean([getattr(one, name) for one in late for name in kept]) > 0.9
