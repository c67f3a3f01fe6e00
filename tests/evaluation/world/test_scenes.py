from dataclasses import replace

import numpy as np

from tests.evaluation.world.clips import clip
from tethercache.evaluation import world

CONFIG = world.WorldConfig(object_weights=(0.5, 0.3, 0.2), pan_probability=0.3)
TURNING = world.WorldConfig(turn_probability=1.0)


def test_the_same_seed_gives_the_same_clip():
    first, second = clip(7, 9, CONFIG), clip(7, 9, CONFIG)
    assert first[2] == second[2]
    assert first[2].caption == second[2].caption
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], clip(8, 9, CONFIG)[0])


def test_any_frame_can_be_rendered_on_its_own():
    scene = world.sample_scene(3, CONFIG)
    pixels, masks = world.render(scene, 12)
    alone, mask = world.render(scene, np.array([11]))
    np.testing.assert_array_equal(pixels[11], alone[0])
    np.testing.assert_array_equal(masks[11], mask[0])


def test_masks_tell_where_the_colours_are():
    for seed in range(12):
        pixels, masks, scene = clip(seed, 2, CONFIG)
        for n, thing in enumerate(scene.things):
            inside = pixels[0][masks[0, n]].astype(float).mean(0)
            wanted = np.asarray(world.COLOURS[thing.colour]) * 255
            assert np.corrcoef(inside, wanted)[0, 1] > 0.9


def test_every_object_is_unoccluded_in_half_of_the_frames():
    for seed in range(40):
        _, masks, scene = clip(seed, CONFIG.clip_frames, CONFIG)
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
