"""How soon does a video follow another prompt, by what becomes of the memory?

For pairs of held-out scenes of the rendered world that differ in object and place: some seconds of
the first prompt, then the second one, once for each `how` (soft, recache, cut), from the same state
and with the same noise. The oracle reads each second behind the change: adherence to the new
prompt, and to the old one. Means over pairs with 95 % bootstrap intervals.

    python benchmarks/switches.py > benchmarks/results/switches.txt

`--sheet FILE.png` draws some pairs: a row for each `how`, a frame every half second.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tethercache import CausalVideoPipeline
from tethercache.evaluation import world
from tethercache.evaluation.drift import statistics
from tethercache.evaluation.world import oracle
from tethercache.rollout import Rollout
from tethercache.rollout.actions import HOWS
from tethercache.video import to_uint8

_FIRST = 9_200_000  # scene numbers that no training and no other result has used
_SHOWN = 4  # pairs on the sheet


def pairs(count: int) -> list[tuple[world.Scene, world.Scene]]:
    """Held-out scenes with one object, two by two, that share neither object, colour nor place."""
    found, config = [], world.WorldConfig(object_weights=(1.0, 0.0), pan_probability=0.0)
    scenes = iter(world.held_out_scenes(20 * count, config, _FIRST))
    for one in scenes:
        for two in scenes:
            a, b = one.things[0], two.things[0]
            if a.shape != b.shape and a.colour != b.colour and one.background != two.background:
                found.append((one, two))
                break
        if len(found) == count:
            return found
    raise SystemExit("too few scenes")


@torch.no_grad()
def frames_of(pipe: CausalVideoPipeline, rollout: Rollout, decoder, seconds: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The next whole chunks that cover some seconds, uint8 `[F, H, W, 3]`."""
    made: list[np.ndarray] = []
    while sum(map(len, made)) < seconds * world.FPS:
        made.append(to_uint8(decoder.decode(next(rollout)))[0].numpy())
    return np.concatenate(made)


def per_second(frames: np.ndarray, truth: world.Scene) -> np.ndarray:
    """Adherence of each whole second."""
    return oracle.adherence_per_second(oracle.read(frames), truth)


def main() -> None:
    """Make all videos, read them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--policy", default="tethercache")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--before", type=float, default=8.0, help="seconds of the first prompt")
    parser.add_argument("--after", type=float, default=8.0, help="seconds of the second one")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    pipe = CausalVideoPipeline.from_pretrained(given.model)
    new: dict[str, list[np.ndarray]] = {how: [] for how in HOWS}
    old: dict[str, list[np.ndarray]] = {how: [] for how in HOWS}
    rows = []
    for number, (one, two) in enumerate(pairs(given.pairs)):
        rollout = pipe.rollout(
            one.caption,
            num_seconds=given.before + given.after + 2,
            policy=given.policy,
            seed=number,
        )
        decoder = pipe.decoder()
        start = frames_of(pipe, rollout, decoder, given.before)
        state, embeds = decoder.state_dict(), pipe.encode_prompt([two.caption])
        for how in HOWS:
            other, other_decoder = rollout.fork(), pipe.decoder()
            other_decoder.load_state_dict(state)
            other.switch(embeds, how)
            frames = frames_of(pipe, other, other_decoder, given.after)
            new[how].append(per_second(frames, two)[: int(given.after)])
            old[how].append(per_second(frames, one)[: int(given.after)])
            if number < _SHOWN:
                rows.append(np.concatenate([start[-1], *frames[:: world.FPS // 2][:15]], axis=1))
        print(f"{number + 1} of {given.pairs}", file=sys.stderr)
    if given.sheet is not None:
        Image.fromarray(np.concatenate(rows)).save(given.sheet)
    report(new, old, given.policy)


def report(new: dict[str, list[np.ndarray]], old: dict[str, list[np.ndarray]], policy: str) -> None:
    """Print the table and the JSON line."""
    count = len(next(iter(new.values())))
    print(f"adherence after the prompt changes, policy {policy}, {count} pairs of prompts")
    print(f"{'how':<9}{'new, 3rd second':>18}{'95 %':>16}{'old, 3rd second':>18}   new, by second")
    cases = []
    for how in new:
        curve = np.nanmean(new[how], axis=0)
        third = statistics([float(values[2]) for values in new[how]])
        kept = float(np.nanmean([values[2] for values in old[how]]))
        low, high = third.interval or (third.mean, third.mean)
        print(
            f"{how:<9}{third.mean:>18.3f}{f'{low:.3f} to {high:.3f}':>16}{kept:>18.3f}   "
            + " ".join(f"{value:.2f}" for value in curve)
        )
        cases.append(
            {
                "how": how,
                "new_third_second": third.mean,
                "interval": [low, high],
                "old_third_second": kept,
                "new_by_second": [round(float(value), 4) for value in curve],
            }
        )
    print(json.dumps({"policy": policy, "pairs": count, "cases": cases}))


if __name__ == "__main__":
    main()
