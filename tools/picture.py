"""The moving picture of the README: one prompt, one noise, FIFO beside TetherCache.

    python -m tools.picture            # writes docs/pictures/drift.webp

Two minutes of video by the shipped model, eight times as fast. The prompt is one of the 16 of
`benchmarks/guard.py`, taken because FIFO fails in it; what happens on average is in
`benchmarks/results/guard.txt`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import tethercache as tc
from tethercache.comparison import Plan, of_prompts, run
from tethercache.comparison.sidebyside import side_by_side
from tethercache.video import probe, read_frames

PROMPT = "a pink pyramid hovering on a meadow in the moonlight"
SEED, SECONDS, FASTER = 3, 120.0, 8
POLICIES = ("fifo", "tethercache")
PICTURE = Path(__file__).parents[1] / "docs/pictures/drift.webp"


def make(folder: Path, picture: Path) -> None:
    """Make both videos in a folder, unless they are there, and the picture."""
    request = tc.VideoRequest(PROMPT, seconds=SECONDS, seed=SEED)
    plan = Plan(request, POLICIES, tuple(of_prompts([PROMPT])))
    for unit in run(plan, folder):
        print(f"{unit.path} is made", flush=True)
    (video,) = side_by_side(plan, folder).values()
    fps = float(probe(video).fps)
    frames = [Image.fromarray(frame) for frame in list(read_frames(video))[::FASTER]]
    picture.parent.mkdir(parents=True, exist_ok=True)
    first, *others = frames
    first.save(
        picture,
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        quality=55,
        method=6,
    )
    print(f"{picture}: {picture.stat().st_size / 1e6:.2f} MB, {len(frames)} frames")


def main() -> None:
    """Make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the videos; a temporary one if missing")
    parser.add_argument("--output", type=Path, default=PICTURE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        make(given.folder or Path(temporary), given.output)


if __name__ == "__main__":
    main()
