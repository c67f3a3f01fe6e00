"""What is read of a long video and of the renders of its prompt, second by second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers import AutoencoderKLWan

from tethercache.evaluation import world
from tethercache.evaluation.world import oracle
from training.batches import save_arrays, scenes
from training.frechet import features
from training.sample import through_vae

Array = npt.NDArray[Any]
MEASURES = ("adherence", "identity", "speed")


def read(frames: Array, scene: world.Scene, rate: int) -> dict[str, Array]:
    """What one video shows.

    Args:
        frames: uint8 `[F, H, W, 3]`.
        scene: that it should show.
        rate: frames a second.

    Returns:
        `adherence`, `identity` and `speed` `[seconds]`, `features` float16 `[seconds, 1280]`.
    """
    readings = oracle.read(frames)
    return {
        "adherence": oracle.adherence_per_second(readings, scene, rate),
        "identity": oracle.identity_per_second(readings, fps=rate),
        "speed": oracle.speed_per_second(readings, scene, rate),
        "features": features(frames[::rate]),
    }


def read_renders(
    config: dict[str, Any], folder: Path, vae: AutoencoderKLWan, seconds: int = 20
) -> dict[str, Array]:
    """True renders of the same prompts, read as the videos are; kept in a file.

    Returns:
        As `read`, `[prompts, seconds]`, of the renders: what nothing can do better. The same of
        renders that went through the VAE, with "vae " before the names: what no transformer can do
        better. `others`: the features of as many seconds after those, for the Fréchet distance
        between renders and renders.
    """
    path = folder / "renders.npz"
    if path.exists() and len((known := dict(np.load(path)))["features"]) == config["prompts"]:
        return known
    every, rate = config["every"], world.FPS // config["every"]
    times = np.arange(0, 2 * seconds * world.FPS, every)
    found = []
    for scene in scenes(config):
        first, after = np.split(world.render(scene, times)[0], 2)
        decoded = through_vae(vae, scene, 4 * seconds + 1)[: seconds * world.FPS : every]
        rebuilt = {f"vae {key}": value for key, value in read(decoded, scene, rate).items()}
        found.append(read(first, scene, rate) | rebuilt | {"others": features(after[::rate])})
    measures = {key: np.stack([f[key] for f in found]) for key in found[0]}
    save_arrays(path, measures)
    return measures
