"""Does the guard help where a video drifts, and leave alone where it does not?

For held-out scenes of the rendered world: a video under a policy with the guard, and the same one
without it where the guard did anything (else the two are the same, bit for bit). The oracle reads
both: the loss is the share of what the prompt says that is not seen, over all seconds behind the
first ten. Differences are paired by prompt, with 95 % bootstrap intervals.

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

import tethercache as tc
from tethercache.evaluation import world
from tethercache.evaluation.drift import statistics
from tethercache.evaluation.world import oracle
from tethercache.render import check, load, prepare
from tethercache.render.loading import Loaded
from tethercache.video import read_frames, read_sidecar

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


def plain_request(request: tc.VideoRequest) -> tc.VideoRequest:
    """The same without a guard."""
    return dataclasses.replace(request, guard=False)


def main() -> None:
    """Run every policy, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("guard"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--policy", action="append", help="default fifo, sink, tethercache")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args()
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
