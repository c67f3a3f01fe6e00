"""How samples of a model are summed up."""

from tethercache.evaluation import world
from training import sample


def test_clean_renders_are_summed_up_as_right():
    scenes = world.held_out_scenes(2, world.WorldConfig((0.5, 0.5), 0))
    summary, results = sample.summarise([world.render(s, 81)[0] for s in scenes], scenes)
    assert summary["adherence_5s"] == summary["everything_right_5s"] == 1
    assert summary["by_attribute"] == {"background": 1, "colour": 1, "shape": 1}
    assert summary["time_of_day_right"] == 1
    for scene in scenes:
        for thing in scene.things:
            right, of = summary["shapes_right_of"][thing.shape][thing.motion]
            assert right == of >= 1
            assert summary["speed_by_motion"][thing.motion] > 0
    assert [r["prompt"] for r in results] == [s.caption for s in scenes]
    swapped, _ = sample.summarise([world.render(s, 81)[0] for s in scenes[::-1]], scenes)
    assert swapped["adherence_5s"] < 0.5
