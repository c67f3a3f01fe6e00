"""Does the guard help where a video drifts, and leave alone where it does not?

For held-out scenes of the rendered world: a video under a policy with the guard, and the same one
without it where the guard did anything (else the two are the same, bit for bit). The oracle reads
both: the loss is the share of what the prompt says that is not seen, over all seconds behind the
first ten. Differences are paired by prompt, with 95 % bootstrap intervals. `--injected N` asks
instead how often drift that is put into the latents is found.

    python benchmarks/guard.py --folder guard > benchmarks/results/guard.txt

It can be stopped and started again: it goes on with what is in the folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tethercache as tc
from tethercache.evaluation import world
from tethercache.evaluation.drift import statistics
from tethercache.evaluation.watch import DriftWatch
from tethercache.evaluation.world import oracle
from tethercache.render import check, load, prepare
from tethercache.render.guard import OVERLOOKED
from tethercache.render.loading import Loaded
from tethercache.video import read_frames, read_sidecar, to_uint8

_FIRST = 9_300_000  # scene numbers that no training and no other result has used
_EVERY = 4  # frames
_SETTLED = 10  # seconds


def scenes(count: int) -> list[world.Scene]:
    """Held-out scenes with one object and a still camera."""
    config = world.WorldConfig(object_weights=(1.0, 0.0), pan_probability=0.0)
    return world.held_out_scenes(count, config, _FIRST)


def loss(video: Path, scene: world.Scene) -> float:
    """The share of what the prompt says that is not seen, behind the first seconds."""
    frames = np.stack(list(read_frames(video))[::_EVERY])
    seen = oracle.adherence_per_second(oracle.read(frames), scene, world.FPS // _EVERY)
    return float(1 - np.nanmean(seen[_SETTLED:]))


def one(loaded: Loaded, scene: world.Scene, number: int, folder: Path) -> dict[str, Any]:
    """Both videos of a scene, read."""
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{number:02d}.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    request = dataclasses.replace(loaded.order.request, prompt=scene.caption, seed=number)
    guarded = folder / f"{number:02d}-guarded.mp4"
    if not guarded.exists():
        loaded.make(request, guarded, overwrite=True)
    events = read_sidecar(guarded).settings.get("guard", [])
    with_guard = loss(guarded, scene)
    without = with_guard
    if events:
        plain = folder / f"{number:02d}-plain.mp4"
        free = dataclasses.replace(loaded.order, request=plain_request(loaded.order.request))
        if not plain.exists():
            bare = dataclasses.replace(loaded, order=free)
            bare.make(plain_request(request), plain, overwrite=True)
        without = loss(plain, scene)
    found = {
        "prompt": scene.caption,
        "reactions": [event["reaction"] for event in events],
        "found_at": [event["found_at"] for event in events],
        "reasons": [event["reasons"] for event in events],
        "loss_with": with_guard,
        "loss_without": without,
    }
    result.write_text(json.dumps(found, indent=1))
    return found


@torch.no_grad()
def injected(loaded: Loaded, scene: world.Scene, number: int) -> tuple[float | None, float | None]:
    """When drift that is put into the latents, and a run without it, are found to drift.

    From second 10 on, a random direction in the space of the latents' channels grows by a fifth of
    their deviation each second, as colours that burn in do. Only what is decoded has it.
    """
    found: list[float | None] = []
    for strength in (0.2, 0.0):
        rollout = loaded.pipe.rollout(
            scene.caption,
            num_seconds=30,
            seed=number,
            policy=loaded.order.policy,
            prompt_embeds=loaded.embeds(scene.caption),
        )
        decoder, watch = loaded.pipe.decoder(), DriftWatch(float(world.FPS))
        direction = torch.randn(16, generator=torch.Generator().manual_seed(number))
        direction = (direction / direction.square().mean().sqrt())[None, :, None, None, None]
        seconds, at = 0.0, None
        for latents in rollout:
            grown = strength * max(0.0, seconds - _SETTLED)
            frames = to_uint8(decoder.decode(latents + grown * direction))[0].numpy()
            watch.update(frames)
            seconds += len(frames) / world.FPS
            verdict = watch.judge(OVERLOOKED)
            if at is None and verdict is not None and verdict.word == "drifting":
                at = seconds
        found.append(at)
    return found[0], found[1]


def plain_request(request: tc.VideoRequest) -> tc.VideoRequest:
    """The same without a guard."""
    return dataclasses.replace(request, guard=False)


def report_injected(model: str, count: int) -> None:
    """Print how often injected drift was found, and how often drift was found without any."""
    chosen = scenes(count)
    request = tc.VideoRequest(chosen[0].caption, seconds=30, model=model)
    loaded = load(prepare(check(request)), [scene.caption for scene in chosen])
    results = [injected(loaded, scene, number) for number, scene in enumerate(chosen)]
    caught = [at for at, _ in results if at is not None]
    alarms = sum(at is not None for _, at in results)
    print(f"injected from second {_SETTLED} on: found in {len(caught)} of {count}, ", end="")
    print(f"at second {np.median(caught):.1f} (median); without any: {alarms} of {count}")
    print(json.dumps({"injected": results}))


def main() -> None:
    """Run every policy, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("guard"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--policy", action="append", help="default fifo, sink, tethercache")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--injected", type=int, default=0, metavar="N", help="videos")
    given = parser.parse_args()
    if given.injected:
        report_injected(given.model, given.injected)
        return
    chosen, cases = scenes(given.prompts), []
    print(f"{'policy':<14}{'acted':>8}{'loss without':>14}{'with':>8}{'difference':>12}   95 %")
    for policy in given.policy or ["fifo", "sink", "tethercache"]:
        request = tc.VideoRequest(
            chosen[0].caption,
            seconds=given.seconds,
            policy=policy,
            model=given.model,
            guard=True,
        )
        loaded = load(prepare(check(request)), [scene.caption for scene in chosen])
        found = []
        for number, scene in enumerate(chosen):
            found.append(one(loaded, scene, number, given.folder / policy.replace(":", "-")))
            print(f"{policy}: {number + 1} of {len(chosen)}", file=sys.stderr)
        difference = statistics([case["loss_with"] - case["loss_without"] for case in found])
        low, high = difference.interval or (difference.mean, difference.mean)
        acted = sum(bool(case["reactions"]) for case in found)
        without = float(np.mean([case["loss_without"] for case in found]))
        row = f"{policy:<14}{f'{acted}/{len(found)}':>8}{without:>14.3f}"
        row += f"{without + difference.mean:>8.3f}{difference.mean:>+12.3f}"
        print(f"{row}   {low:+.3f} to {high:+.3f}", flush=True)
        cases.append(
            {
                "policy": policy,
                "prompts": len(found),
                "acted": acted,
                "loss_without": without,
                "difference": difference.mean,
                "interval": [low, high],
                "videos": found,
            }
        )
    print(json.dumps({"seconds": given.seconds, "cases": cases}))


if __name__ == "__main__":
    main()
