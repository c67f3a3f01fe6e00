"""How samples and long runs are summed up: intervals, Fréchet distance, partial reports."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tethercache import CausalVideoPipeline
from tethercache.evaluation import world
from training import longrun, sample


@pytest.fixture
def tiny() -> CausalVideoPipeline:
    return CausalVideoPipeline.from_pretrained("tiny")


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


def test_frechet_is_the_squared_shift_of_equal_clouds():
    rng = np.random.default_rng(2)
    groups = [rng.normal(size=(n, 12)) for n in (200, 120, 80)]
    every = np.arange(3)
    still = longrun.Clouds(groups).fit(every)
    moved = longrun.Clouds([group + 0.5 for group in groups]).fit(every)
    assert longrun.frechet(still, still) == pytest.approx(0, abs=1e-6)
    assert longrun.frechet(moved, still) == pytest.approx(12 * 0.25, rel=1e-6)


def test_clouds_fit_the_features_of_the_drawn_prompts():
    rng = np.random.default_rng(4)
    groups = [rng.normal(size=(n, 5)) + 3 for n in (20, 7, 11)]
    mean, cov = longrun.Clouds(groups).fit(np.array([1, 2, 1]))
    together = np.concatenate([groups[1], groups[2], groups[1]])
    np.testing.assert_allclose(mean, together.mean(0))
    np.testing.assert_allclose(cov, np.cov(together, rowvar=False))


def test_frechet_interval_holds_the_value_and_narrows_with_more_prompts():
    rng = np.random.default_rng(3)

    def made(prompts: int) -> list[list[float]]:
        content = rng.normal(0, 3, size=(prompts, 1, 6))  # what a prompt shows
        fault = rng.normal(1, 0.5, size=(prompts, 1, 6))  # what is wrong with its videos

        def frames(shift: np.ndarray) -> list[np.ndarray]:
            return list(content + shift + rng.normal(size=(prompts, 40, 6)))

        renders = frames(np.zeros(6))
        one, other = (longrun.frechet_draws(frames(f), renders) for f in (fault, 2 * fault))
        return [longrun.frechet_interval(draws) for draws in (one, other - one)]

    (few, _), (many, gap) = made(8), made(200)
    for value, low, high in (few, many, gap):
        assert low < value < high
    assert many[2] - many[1] < (few[2] - few[1]) / 2
    assert 5 < many[0] < 8
    assert gap[1] > 10  # the other videos are farther away, beyond doubt


def write_batch(folder: Path, number: int, videos: list[int], adherence: float) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(number)
    np.savez(
        folder / f"{number:03d}.npz",
        videos=np.array(videos),
        adherence=np.full((len(videos), 20), adherence),
        identity=np.full((len(videos), 20), 1.0),
        speed=np.full((len(videos), 20), 9.0),
        features=rng.normal(size=(len(videos), 20, 8)).astype(np.float16),
    )


def test_a_report_is_partial_until_every_batch_of_every_policy_is_there(tmp_path: Path):
    rng = np.random.default_rng(9)
    truth = {key: np.full((2, 20), 1.0) for key in longrun.MEASURES}
    truth |= {f"vae {key}": 0.875 * value for key, value in truth.items()}
    truth |= {key: rng.normal(size=(2, 20, 8)) for key in ("features", "others", "vae features")}
    config: dict[str, Any] = {"prompts": 2, "seeds": 2, "seconds": 20, "window_seconds": 10}
    config |= {"policies": ["fifo", "tethercache"], "compare_with": ["fifo", "sink"]}
    (tmp_path / "made.json").write_text('{"weights": "0123"}')
    write_batch(tmp_path / "fifo", 0, [0, 1], 0.5)
    write_batch(tmp_path / "fifo", 1, [2, 3], 0.9)
    write_batch(tmp_path / "tethercache", 0, [0, 1], 0.8)
    # what another process is still writing
    (tmp_path / "tethercache" / "001.77.partial.npz").write_bytes(b"PK")
    partial = longrun.report(config, tmp_path, truth)
    assert partial["state"] == "partial"
    assert partial["made"] == {"weights": "0123"}
    assert partial["policies"]["fifo"]["videos"] == 4
    assert partial["policies"]["fifo"]["by_prompt"]["adherence"] == [0.5, 0.9]
    assert [row[0] for row in partial["policies"]["fifo"]["adherence"]] == [0.7, 0.7]
    assert partial["policies"]["fifo"]["speed"] == [[9.0, 9.0, 9.0]] * 2
    found = partial["differences"]["fifo"]["tethercache"]["adherence"]
    assert found == pytest.approx([0.3, 0.3, 0.3, 1, 0])
    write_batch(tmp_path / "tethercache", 1, [2, 3], 0.8)
    complete = longrun.report(config, tmp_path, truth)
    assert complete["state"] == "complete"
    row = "| adherence | tethercache | 0.80 [0.80, 0.80] | 0.80 [0.80, 0.80] | 0.88 | 1.00 |"
    assert row in longrun.table(complete)
    zeros = "| +0.000 [+0.000, +0.000] 0:0 " + "| +0.0 [+0.0, +0.0] 0:0 " * 2 + "|"
    row = f"| tethercache | +0.100 [-0.100, +0.300] 1:1 {zeros} +"
    assert row in longrun.differences_table(complete["differences"]["fifo"], "minus fifo")
    assert complete["policies"]["fifo"]["by_prompt"]["speed error"] == [8, 8]
    longrun.plot(complete, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[1:4] == b"PNG"


def test_a_folder_holds_videos_of_one_kind(tmp_path: Path, tiny: CausalVideoPipeline):
    config = {"seconds": 20, "seeds": 2, "every": 4, "batch": 4, "world": {"pan_probability": 0.0}}
    longrun.declare(config, tmp_path, tiny)
    longrun.declare(config | {"prompts": 7}, tmp_path, tiny)
    with pytest.raises(SystemExit, match=r"has videos of other seconds, every: --set out=ANOTHER"):
        longrun.declare(config | {"seconds": 30, "every": 8}, tmp_path, tiny)
    tiny.transformer.proj_out.bias.data[0] += 1e-6
    with pytest.raises(SystemExit, match="other weights"):
        longrun.declare(config, tmp_path, tiny)


def test_renders_are_read_with_and_without_the_vae(
    tmp_path: Path, tiny: CausalVideoPipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(longrun, "features", lambda frames: np.zeros((len(frames), 3), np.float16))
    config = {"prompts": 2, "every": 4, "world": {"pan_probability": 0.0}}
    truth = longrun.read_renders(config, tmp_path, tiny.vae, seconds=2)
    assert truth["adherence"].shape == truth["vae adherence"].shape == (2, 2)
    assert truth["adherence"].min() == 1
    assert truth["vae adherence"].min() > 0.5
    assert truth["others"].shape == truth["vae features"].shape == (2, 2, 3)
    again = longrun.read_renders(config, tmp_path, tiny.vae, seconds=5)
    assert again["adherence"].shape == (2, 2)  # from the file
    fewer = longrun.read_renders(config | {"prompts": 1}, tmp_path, tiny.vae, seconds=1)
    assert fewer["adherence"].shape == (1, 1)
