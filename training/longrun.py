"""Does the shipped model drift, and does a policy help? Long runs, read by the oracle.

    python -m training.longrun --config training/configs/longrun.yaml            # run or resume
    python -m training.longrun --config training/configs/longrun.yaml --set report_only=true

Held-out prompts x seeds x policies, `seconds` long each, through the package's own pipeline, the
same noise for every policy. Videos are made in batches; a finished batch is a small file, so the
run can be stopped, resumed and spread over several processes (`worker` of `workers`). Of every
second a few frames are read: adherence to the prompt, identity with the video's own first 5 s, the
objects' speed, and features of a network from a wheel for the Fréchet distance between windows of
generated video and of renders.

The report has curves, and differences to some of the policies prompt by prompt, with 95 % bootstrap
intervals over prompts, and says `partial` until every batch of every policy is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tethercache import POLICIES
from tethercache.evaluation import world
from tethercache.files import write_atomically
from training import batches
from training.common import load_config
from training.readings import read, read_renders
from training.report import differences_table, plot, report, table

Array = npt.NDArray[Any]


def run_batch(
    pipe: Any, policy: str, part: list[batches.Video], config: dict[str, Any]
) -> dict[str, Array]:
    """Generate and read one batch of videos: what `read` says, a row a video."""
    frames, scenes = batches.generate(pipe, POLICIES.parse(policy), part, config)
    rate = world.FPS // config["every"]
    found = [read(video, scene, rate) for video, scene in zip(frames, scenes, strict=True)]
    return {key: np.stack([measures[key] for measures in found]) for key in found[0]}


def main() -> None:
    """Run what is missing, then write the report."""
    config: dict[str, Any] = load_config(__doc__)
    if config["seconds"] not in range(0, 10**6, config["window_seconds"])[2:]:
        raise SystemExit("`seconds` must be two or more times `window_seconds`, and whole")
    folder, pipe = Path(config["out"]), batches.run(config, run_batch)
    result = report(config, folder, read_renders(config, folder, pipe.vae))
    write_atomically(folder / "report.json", json.dumps(result) + "\n")
    plot(result, folder / "report.png")
    print(table(result))
    for base, found in result["differences"].items():
        print("", differences_table(found, f"minus {base}"), sep="\n")


if __name__ == "__main__":
    main()
