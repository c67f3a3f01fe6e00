"""Videos of one prompt beside each other, with the names of their policies and the seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from tethercache.comparison.plan import Plan
from tethercache.comparison.units import Unit, units
from tethercache.files import read_object, write_atomically
from tethercache.video import VideoWriter, probe, read_frames, read_sidecar

VERSION = 1
FOLDER = "side-by-side"
WIDEST = 1920  # pixels of all together
SMALLEST = 224  # pixels of one: smaller ones are enlarged, by whole numbers
BAR = 28  # pixels of the caption
COLUMNS = 4

Image = npt.NDArray[np.uint8]


def side_by_side(plan: Plan, folder: Path, seed: int = 0) -> dict[int, Path]:
    """One video a prompt, for each prompt whose videos of a seed are complete.

    What is there of the same videos is not made again.

    Returns:
        The files by the number of the prompt.
    """
    made = {}
    every = [unit for unit in units(plan, folder) if unit.seed == seed]
    for prompt in range(len(plan.subjects)):
        shown = [unit for unit in every if unit.prompt == prompt]
        if all(unit.reading() is not None for unit in shown):
            made[prompt] = folder / FOLDER / f"{prompt:03d}.mp4"
            _make(shown, made[prompt])
    return made


def _make(shown: Sequence[Unit], path: Path) -> None:
    hashes = {unit.policy: read_sidecar(unit.path).frames_hash for unit in shown}
    about, known = path.with_suffix(".json"), {"version": VERSION, "of": hashes}
    if path.exists() and about.exists() and read_object(about, 1 << 20) == known:
        return
    path.parent.mkdir(exist_ok=True)
    info = probe(shown[0].path)
    labels = [unit.policy for unit in shown]
    frames = zip(*(read_frames(unit.path) for unit in shown), strict=False)
    first = next(frames)
    height, width = compose(first, labels, 0.0).shape[:2]
    about.unlink(missing_ok=True)  # of what is replaced
    with VideoWriter(path, fps=info.fps, width=width, height=height, overwrite=True) as writer:
        for number, images in enumerate(_behind(first, frames)):
            writer.write(compose(images, labels, float(number / info.fps))[None])
    write_atomically(about, json.dumps(known) + "\n")


def _behind(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def compose(images: Sequence[Image], labels: Sequence[str], second: float) -> Image:
    """Images `[H, W, 3]` of one size in rows of up to four, captions above them.

    Small ones are enlarged without blurring, large ones shrunk.

    Returns:
        uint8 `[height, width, 3]`, both even.
    """
    height, width = images[0].shape[:2]
    columns = min(COLUMNS, len(images))
    scale: float = max(1, -(-SMALLEST // width))
    scale = min(scale, WIDEST / (columns * width))
    size = (2 * round(width * scale / 2), 2 * round(height * scale / 2))
    kind = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    tiles = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        bar = np.full((BAR, size[0], 3), 24, np.uint8)
        _write(bar, label, 6, size[0] - (64 if number == 0 else 12))
        if number == 0:
            _write(bar, f"{second:.1f} s", size[0] - 56, 56)
        tiles.append(np.concatenate([bar, cv2.resize(image, size, interpolation=kind)]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _write(bar: Image, text: str, left: int, width: int) -> None:
    """White text, as large as fits."""
    plain = text.encode("ascii", "replace").decode()
    scale = 0.45
    taken = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    scale *= min(1.0, width / max(taken, 1))
    place = (left, BAR // 2 + 5)
    font, white = cv2.FONT_HERSHEY_SIMPLEX, (235, 235, 235)
    cv2.putText(bar, plain, place, font, scale, white, 1, cv2.LINE_AA)
