from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.world.clips import clip
from tethercache.evaluation import world
from tethercache.evaluation.world import oracle

CONFIG = world.WorldConfig(object_weights=(0.5, 0.3, 0.2), pan_probability=0.3)


def test_oracle_reads_clean_renders():
    scores = []
    for seed in range(20):
        pixels, _, scene = clip(10**9 + seed, 81, CONFIG)
        scores.append(oracle.score(oracle.read(pixels[::4]), scene))
    assert np.mean([score.adherence for score in scores]) >= 0.98
    assert np.mean([score.everything for score in scores]) >= 0.95
    assert np.mean([score.time for score in scores]) >= 0.95


def test_a_second_object_of_the_same_colour_is_one_too_many():
    scene = world.sample_scene(5, world.WorldConfig((1.0,), 0.0))
    ball = world.Thing("red", "ball", "small", "float", 8.0, (14.0, 50.0), (2, 5), 50.0, 0.0)
    alone = replace(scene, things=(ball,))
    twin = replace(ball, centre=(52.0, 48.0), radius=6.0)
    twins = oracle.read(world.render(replace(scene, things=(ball, twin)), 16)[0])
    assert oracle.score(oracle.read(world.render(alone, 16)[0]), alone).everything
    assert oracle.score(twins, alone).adherence == 1
    assert not oracle.score(twins, alone).everything
    assert not oracle.score(twins, replace(alone, things=())).everything


def test_a_clip_needs_a_majority_and_a_second_the_commonest_reading():
    scene = world.sample_scene(5, world.WorldConfig((1.0,), 0.0))
    (thing,) = scene.things
    others = [shape for shape in world.SHAPES if shape != thing.shape]
    votes = [thing.shape, thing.shape, others[0], others[1]]
    readings = [
        oracle.Reading(
            scene.background,
            "noon" if scene.time != "noon" else "night",
            {thing.colour: oracle.Sighting(shape, 1.0, 300, (30, 30), 0)},
        )
        for shape in votes
    ]
    verdict = oracle.score(readings, scene)
    assert not verdict.attributes[f"{thing.colour}: shape"]
    assert not verdict.time
    assert oracle.score(readings, scene, majority=False).adherence == 1
    assert oracle.adherence_per_second(readings, scene, fps=4).tolist() == [1]
    assert oracle.score([*readings, readings[0]], scene).adherence == 1


@pytest.mark.parametrize("wrong", ["background", "colour", "shape"])
def test_oracle_notices_what_is_wrong(wrong: str):
    pixels, _, scene = clip(5, 16, world.WorldConfig((1.0,), 0.0))
    thing = scene.things[0]
    other = {"colour": thing.colour, "shape": thing.shape}
    if wrong != "background":
        table = world.COLOURS if wrong == "colour" else world.SHAPES
        other[wrong] = next(k for k in table if k != other[wrong])
    changed = world.Thing(**{**thing.__dict__, **other})
    ground = "city" if scene.background != "city" else "snow"
    truth = world.Scene(
        ground if wrong == "background" else scene.background, scene.time, (changed,), scene.seed
    )
    verdict = oracle.score(oracle.read(pixels), truth)
    assert not verdict.everything
    assert verdict.adherence == pytest.approx({"colour": 1 / 3}.get(wrong, 2 / 3))


def test_oracle_gives_a_smear_no_shape():
    pixels, _, _ = clip(5, 16, world.WorldConfig((1.0,), 0.0))
    pixels[:, 20:30, 4:60] = (np.asarray(world.COLOURS["red"]) * 255).astype(np.uint8)
    assert all(r.objects["red"].shape == "" for r in oracle.read(pixels))


def test_identity_is_kept_by_a_render_and_lost_when_the_object_goes():
    scene = world.sample_scene(5, world.WorldConfig((1.0,), 0.0))
    pixels, _ = world.render(scene, 7 * world.FPS)
    assert np.nanmean(oracle.identity_per_second(oracle.read(pixels))) > 0.9
    empty, _ = world.render(world.Scene(scene.background, scene.time, (), scene.seed), 16)
    gone = oracle.read(np.concatenate([pixels[:80], empty, empty]))
    np.testing.assert_array_equal(oracle.identity_per_second(gone)[5:], 0)
    assert len(oracle.adherence_per_second(gone, scene)) == 7


def test_speed_is_that_of_the_moving_object_and_nothing_when_it_freezes():
    drawn = (world.sample_scene(seed, world.WorldConfig((1.0,), 0.0)) for seed in range(99))
    scene = next(s for s in drawn if s.things[0].motion == "orbit")
    frames, _ = world.render(scene, 32)
    path = world.positions(scene.things[0], np.arange(0, 32, 4))[:, :2]
    truth = 4 * np.hypot(*np.diff(path, axis=0).T).mean()
    found = oracle.speed_per_second(oracle.read(frames), scene)
    np.testing.assert_allclose(found, truth, rtol=0.3)
    frozen = np.repeat(frames[:1], 32, axis=0)
    assert oracle.speed_per_second(oracle.read(frozen), scene).tolist() == [0, 0]
    empty, _ = world.render(world.Scene(scene.background, scene.time, (), scene.seed), 32)
    assert np.isnan(oracle.speed_per_second(oracle.read(empty), scene)).all()
