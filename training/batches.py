"""Many videos of a few policies, in batches that are files: resumable, and shared by processes.

A finished batch is a small file, so a run can be stopped, resumed and spread over several processes
(`worker` of `workers`).

Axes: V videos, F frames, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tethercache import CausalVideoPipeline, Policy
from tethercache.evaluation import world
from tethercache.files import write_atomically
from training.common import pick_device, written_whole

Array = npt.NDArray[Any]
Video = tuple[int, int]  # the number of its prompt, and its seed


def videos(config: dict[str, Any]) -> list[Video]:
    """All (prompt number, seed) pairs, in the order in which they are batched."""
    return [(p, s) for p in range(config["prompts"]) for s in range(config["seeds"])]


def scenes(config: dict[str, Any]) -> list[world.Scene]:
    """The held-out scenes of a run, one a prompt."""
    return world.held_out_scenes(config["prompts"], world.WorldConfig(**config["world"]))


def generate(
    pipe: Any, policy: Policy, part: list[Video], config: dict[str, Any]
) -> tuple[Array, list[world.Scene]]:
    """Generate a batch of videos.

    Returns:
        Frames uint8 `[V, F, H, W, 3]`, one of `every`, and the scene of each video.
    """
    known = scenes(config)
    chosen = [known[prompt] for prompt, _ in part]
    kept: list[Array] = []
    count, every = 0, config["every"]
    for chunk in pipe.stream(
        [scene.caption for scene in chosen],
        num_seconds=config["seconds"],
        policy=policy,
        # a video's noise is named by prompt and seed, so it is the same in any batch
        samples=[prompt * 1000 + seed for prompt, seed in part],
    ):
        kept.append(chunk[:, -count % every :: every].clone().numpy())  # a view keeps all
        count += chunk.shape[1]
    return np.concatenate(kept, axis=1), chosen


def pieces(folder: Path, policy: str) -> Path:
    """Where the finished batches of a policy lie, settings included, as a name for any disk."""
    return folder / re.sub(r"[^\w=.,-]", "_", policy)


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a compressed `.npz` whole."""
    with written_whole(path) as file:
        np.savez_compressed(file, **arrays)


def finished(folder: Path, policy: str) -> list[dict[str, Array]]:
    """The finished batches of a policy, in their order."""
    return [dict(np.load(path)) for path in sorted(pieces(folder, policy).glob("*[0-9].npz"))]


def declare(config: dict[str, Any], folder: Path, pipe: CausalVideoPipeline) -> None:
    """Note what the videos of a folder are made with, so that no others get among them.

    Raises:
        SystemExit: There are videos of other weights, of another length or of another world, or the
            files hold another number of videos.
    """
    digest = hashlib.sha256()
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    made = {key: config[key] for key in ("seconds", "seeds", "every", "batch", "world")}
    made["weights"] = digest.hexdigest()[:16]
    path = folder / "made.json"
    if path.exists():
        there = json.loads(path.read_text())
        others = [key for key in made if there.get(key) != made[key]]
        if others:
            raise SystemExit(f"{folder} has videos of other {', '.join(others)}: --set out=ANOTHER")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(made) + "\n")


def run(
    config: dict[str, Any],
    run_batch: Callable[[Any, str, list[Video], dict[str, Any]], dict[str, Array]],
) -> CausalVideoPipeline:
    """Make what is missing of this worker's batches, unless there is only to be a report.

    Args:
        config: of the run.
        run_batch: makes one batch with a pipeline, a policy, some `videos` and the config. What it
            returns is kept, with the numbers of the videos as `videos`.

    Returns:
        The pipeline that makes the videos.
    """
    folder, todo, size = Path(config["out"]), videos(config), config["batch"]
    pipe = CausalVideoPipeline.from_pretrained(config["model"]).to(pick_device(config))
    pipe.set_progress_bar_config(disable=True)
    declare(config, folder, pipe)
    for number, start in enumerate(range(0, len(todo), size)):
        for policy in () if config["report_only"] else config["policies"]:
            path = pieces(folder, policy) / f"{number:03d}.npz"
            if path.exists() or number % config["workers"] != config["worker"]:
                continue
            started = time.perf_counter()
            part = list(range(start, min(start + size, len(todo))))
            made = run_batch(pipe, policy, [todo[i] for i in part], config)
            save_arrays(path, {"videos": np.array(part), **made})
            print(f"{policy} batch {number}: {time.perf_counter() - started:.0f} s", flush=True)
    return pipe
