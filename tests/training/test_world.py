from dataclasses import replace

import numpy as np
import pytest

from training import oracle, world

CONFIG = world.WorldConfig(object_weights=(0.5, 0.3, 0.2), pan_probability=0.3)
TURNING = world.WorldConfig(turn_probability=1.0)


def test_the_same_seed_gives_the_same_clip():
    first, second = world.clip(7, 9, CONFIG), world.clip(7, 9, CONFIG)
    assert first[2] == second[2]
    assert first[2].caption == second[2].caption
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], world.clip(8, 9, CONFIG)[0])


def test_any_frame_can_be_rendered_on_its_own():
    scene = world.sample_scene(3, CONFIG)
    pixels, masks = world.render(scene, 12)
    alone, mask = world.render(scene, np.array([11]))
    np.testing.assert_array_equal(pixels[11], alone[0])
    np.testing.assert_array_equal(masks[11], mask[0])


def test_masks_tell_where_the_colours_are():
    for seed in range(12):
        pixels, masks, scene = world.clip(seed, 2, CONFIG)
        for n, thing in enumerate(scene.things):
            inside = pixels[0][masks[0, n]].astype(float).mean(0)
            wanted = np.asarray(world.COLOURS[thing.colour]) * 255
            assert np.corrcoef(inside, wanted)[0, 1] > 0.9


def test_every_object_is_unoccluded_in_half_of_the_frames():
    for seed in range(40):
        _, masks, scene = world.clip(seed, CONFIG.clip_frames, CONFIG)
        for n, thing in enumerate(scene.things):
            alone = world.Scene(scene.background, scene.time, (thing,), scene.seed)
            whole = world.render(alone, CONFIG.clip_frames)[1][:, 0]
            assert ((masks[:, n] == whole).all((1, 2))).mean() >= 0.5


def test_objects_stay_in_the_picture_for_minutes():
    frames = np.arange(0, 240 * world.FPS, 7, dtype=float)
    for seed in range(60):
        for thing in world.sample_scene(seed, CONFIG).things:
            track = world.positions(thing, frames)[:, :2]
            assert track.min() >= 0.8 * thing.radius
            assert track.max() <= world.SIZE - 0.8 * thing.radius


def test_captions_use_only_the_vocabulary():
    known = set(world.vocabulary())
    for seed in range(300):
        assert set(world.sample_scene(seed, CONFIG).caption.split()) <= known


def test_scenes_cover_the_world():
    scenes = [world.sample_scene(seed, CONFIG) for seed in range(400)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {s.background for s in scenes} == set(world.BACKGROUNDS)
    assert {s.time for s in scenes} == set(world.TIMES)
    assert {len(s.things) for s in scenes} == {1, 2, 3}
    assert {t.colour for t in things} == set(world.COLOURS)
    assert {t.shape for t in things} == set(world.SHAPES)
    assert {t.motion for t in things} == set(world.MOTIONS)
    assert any(s.pan for s in scenes)
    assert 0.02 < np.mean([world.held_out(s) for s in scenes]) < 0.3


def test_a_turning_camera_comes_back_to_the_same_picture():
    scene = world.sample_scene(3, TURNING)
    turn = world.TURN // world.TURN_SPEED
    frames = np.array([0, 5, turn // 2, turn, turn + 5])
    pixels, _ = world.render(replace(scene, things=()), frames)
    np.testing.assert_array_equal(pixels[:2], pixels[3:])
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 5
    around = world.ring(scene).astype(float)
    seam = np.abs(around[:, 0] - around[:, -1]).mean()
    assert seam < 3 * np.abs(np.diff(around, axis=1)).mean()


def test_signs_are_not_in_the_caption_and_the_thing_keeps_below_them():
    for seed in range(30):
        scene = world.sample_scene(seed, TURNING)
        (thing,) = scene.things
        colours = {sign.colour for sign in scene.signs}
        assert len(colours) == world.SIGNS
        assert thing.colour not in colours
        words = scene.caption.replace("green grass", "grass").split()
        assert not colours & set(words)
        assert any(phrase in scene.caption for phrase in world.CAMERA_PHRASES)
        track = world.positions(thing, np.arange(0, 500, 7.0))[:, :2]
        assert track[:, 1].min() > 40
        assert track.min() >= 0.8 * thing.radius
        assert track.max() <= world.SIZE - 0.8 * thing.radius


def test_a_share_of_scenes_turns_and_the_others_stay_as_they_were():
    some = world.WorldConfig((1.0,), 0.0, turn_probability=0.4)
    scenes = [world.sample_scene(seed, some) for seed in range(100)]
    assert 25 < sum(bool(scene.signs) for scene in scenes) < 55
    still = world.WorldConfig((1.0,), 0.0)
    assert all(s == world.sample_scene(n, still) for n, s in enumerate(scenes) if not s.signs)
    corners = [world.sample_scene(n, replace(still, corners=0.5)).things[0] for n in range(100)]
    hard = [t for t in corners if t.motion == "roll" and t.shape in ("cube", "star")]
    assert 40 < len(hard) < 70


def test_oracle_reads_clean_renders():
    scores = []
    for seed in range(20):
        pixels, _, scene = world.clip(10**9 + seed, 81, CONFIG)
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
    pixels, _, scene = world.clip(5, 16, world.WorldConfig((1.0,), 0.0))
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
    pixels, _, _ = world.clip(5, 16, world.WorldConfig((1.0,), 0.0))
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
