"""What the videos of a turning camera show when a place comes back, summed up by policy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.policies.runs import latents_of
from tethercache.backbones import Session
from tethercache.evaluation import world
from tethercache.policies.tethercache import TetherCache
from tethercache.rollout import Plan
from training import batches, returns

TURNING = {"turn_probability": 1.0}
TURN = world.TURN // world.TURN_SPEED  # pixel frames


def read(scene: world.Scene, other: world.Scene | None = None) -> dict[str, Any]:
    """What is found in two and a half turns of a render, the second half of another scene."""
    times = np.arange(0, 5 * TURN // 2, 4)
    frames = world.render(scene, times)[0]
    if other:
        half = len(times) // 2
        frames = np.concatenate([frames[:half], world.render(other, times[half:])[0]])
    return returns._read(frames, scene, 4)


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """A video that remembers all, one that remembers nothing, both of their own prompt."""
    scenes = world.held_out_scenes(2, world.WorldConfig(**TURNING))
    shapes = list(world.SHAPES)
    signs = tuple(
        replace(sign, shape=shapes[shapes.index(sign.shape) - 1]) for sign in scenes[1].signs
    )
    return [read(scenes[0]), read(scenes[1], replace(scenes[1], signs=signs))]


def test_returns_are_counted_by_prompt_and_by_turn(found: list[dict[str, Any]]):
    one = returns.summarise(found[:1], [7], 2)
    assert one["same"] == one["shape"] == [1, 1, 1]
    assert one["adherence"][0] > 0.95
    assert one["signs"] == 1
    assert [row[0] for row in one["by_turn"]] == [1, 1]
    assert one["by_prompt"] == {"7": 1}
    both = returns.summarise(found, [7, 9], 3)
    assert both["by_prompt"]["9"] < 0.4
    assert both["colour"][0] == 1
    assert both["by_turn"][2] is None
    assert both["by_turn"][1][0] == pytest.approx(0.5)


def test_a_report_has_every_policy_the_ceiling_and_a_picture(
    tmp_path: Path, found: list[dict[str, Any]]
):
    config: dict[str, Any] = {"prompts": 2, "seeds": 1, "seconds": 25, "every": 4}
    config |= {"policies": ["fifo", "sink:window=9"], "pictured": ["fifo"]}
    config |= {"compare_with": ["fifo"], "world": TURNING}
    (tmp_path / "made.json").write_text("{}")
    (tmp_path / "ceiling.json").write_text(json.dumps(returns.summarise(found[:1], [0], 2)))
    frames = np.zeros((1, 100, 64, 64, 3), np.uint8)
    for policy, order in (("fifo", found), ("sink:window=9", found[::-1])):
        arrays = {"videos": np.arange(2), "found": np.array([json.dumps(f) for f in order])}
        folder = batches.pieces(tmp_path, policy)
        folder.mkdir(parents=True)
        batches.save_arrays(folder / "000.npz", {**arrays, "frames": frames})
    result = returns.report(config, tmp_path, vae=None)  # type: ignore[arg-type]
    assert result["policies"]["fifo"]["videos"] == 2
    gap = result["differences"]["fifo"]["sink:window=9"]
    assert gap[0] == pytest.approx(0)
    assert gap[3:] == [1, 1]
    text = returns.table(result)
    assert "| renders after the VAE | 1.00 [1.00, 1.00] |" in text
    assert "| sink:window=9 |" in text
    assert (tmp_path / "places.png").read_bytes()[1:4] == b"PNG"


def test_a_memory_without_grab_holds_the_newest_frames_or_an_even_draw_from_all():
    kept: dict[str, list[int]] = {}
    for name in ("newest", "random:draw=once"):
        policy = replace(returns.policy_of(name), sink=3, memory=6, recent=3)
        assert getattr(policy, "strength", 0) == TetherCache.tau
        plan = Plan(num_latent_frames=120, chunk_size=3)

        def watch(session: Session, name: str = name) -> None:
            layer = next(iter(session.caches()))
            index = layer.frame_index[0, : layer.readable].sort().values
            kept[name] = index[3:-3].tolist()

        latents_of(policy, plan, watch=watch)
    assert kept["newest"] == list(range(111, 117))
    assert len(set(kept["random:draw=once"])) == 6
    assert min(kept["random:draw=once"]) < 60 < max(kept["random:draw=once"])


def test_the_ceiling_is_that_of_the_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unchanged(vae: Any, scene: world.Scene, latents: int) -> np.ndarray:
        return world.render(scene, 4 * latents - 3)[0]

    monkeypatch.setattr(returns, "through_vae", unchanged)
    config = {"prompts": 1, "ceiling_prompts": 1, "every": 4, "world": TURNING}
    made = returns.ceiling(config, tmp_path, vae=None)  # type: ignore[arg-type]
    assert made["same"][0] == 1
    monkeypatch.setattr(returns, "through_vae", None)
    assert returns.ceiling(config, tmp_path, vae=None) == made  # type: ignore[arg-type]
