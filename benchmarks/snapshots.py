"""What do snapshots cost? With the shipped model, and at the size of the 1.3B model.

    python benchmarks/snapshots.py shipped --folder snapshots
    python benchmarks/snapshots.py full --folder snapshots     # 14 GB of memory, 7 GB of disk

`shipped` makes the same video with snapshots as they are by default, and with none
(`--keep-snapshots 0`), in turn and in random order, with one loaded model. The ratio of the pairs
is given with a 95 % bootstrap interval of its median: of processor time, all threads counted, and
of time on the clock.

`full` fills the caches of a transformer of 30 layers with 12 heads of 128 at 480x832 (1560 tokens a
latent frame, 21 frames), in bfloat16 under TetherCache, and times one snapshot: the copy that is
taken between two chunks, and what the thread does that writes it. Keys and values come from real
context passes. What attention returns is not used: on a CPU it would take an hour, and nothing in
a snapshot depends on its values. The snapshot is then read back and compared with its hash.

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import tethercache as tc
from tethercache.backbones import attach
from tethercache.policies.tethercache import TetherCache
from tethercache.render import check, load, prepare
from tethercache.render.durable import Saver
from tethercache.render.loading import Loaded
from tethercache.render.render import Render
from tethercache.render.snapshots import Snapshots
from tethercache.resampling import interval
from tethercache.state import split

PROMPT = "a red ball rolling over green grass"
LAYERS, HEADS, HEAD, TEXT = 30, 12, 128, 64
CHUNK, CHUNKS, ROWS, COLUMNS = 3, 7, 60, 104  # latents


class Counted:
    """Counts snapshots, and the processor time of copying and writing them.

    What they cost elsewhere, such as memory that is taken again, only whole runs show.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._write, self._copy = Saver._write, Render._state_here

    @contextmanager
    def counting(self) -> Iterator[None]:
        """While it is open."""

        def write(saver: Saver, *given: Any) -> None:
            self.count += 1
            began = time.thread_time()
            self._write(saver, *given)
            self.seconds += time.thread_time() - began

        def copy(render: Render) -> Any:
            began = time.thread_time()
            state = self._copy(render)
            self.seconds += time.thread_time() - began
            return state

        with (
            mock.patch.object(Saver, "_write", write),
            mock.patch.object(Render, "_state_here", copy),
        ):
            yield


def timed(loaded: Loaded, keep: int, path: Path) -> tuple[float, float]:
    """Processor seconds and seconds on the clock that one video takes."""
    request = dataclasses.replace(loaded.order.request, keep_snapshots=keep)
    order = dataclasses.replace(loaded.order, request=request)
    began, clock = time.process_time(), time.perf_counter()
    dataclasses.replace(loaded, order=order).make(request, path, overwrite=True)
    return time.process_time() - began, time.perf_counter() - clock


def shipped(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """With and without, in turn."""
    request = tc.VideoRequest(PROMPT, seconds=seconds, seed=5)
    loaded = load(prepare(check(request)), [PROMPT])
    timed(loaded, 2, folder / "warm.mp4")
    shuffled = random.Random(0)
    ratios: dict[str, list[float]] = {"processor": [], "clock": []}
    counted, took = Counted(), []
    for _ in range(rounds):
        kept = [0, 2]
        shuffled.shuffle(kept)
        with counted.counting():
            found = {keep: timed(loaded, keep, folder / f"keep{keep}.mp4") for keep in kept}
        for place, name in enumerate(ratios):
            ratios[name].append(found[2][place] / found[0][place])
        took.append(found[0][0])
    share = counted.seconds / sum(took)
    result: dict[str, Any] = {
        "share": share,
        "seconds": seconds,
        "rounds": rounds,
        "snapshots_a_run": counted.count / rounds,
        "processor_seconds": statistics.median(took),
    }
    for name, values in ratios.items():
        ends = interval(values, np.median)
        result[name] = {"median": statistics.median(values), "interval": ends, "ratios": values}
        print(
            f"{name} time with snapshots / without: {result[name]['median']:.4f}, "
            f"95 % {ends[0]:.4f} to {ends[1]:.4f}"
        )
    print(f"processor time counted in copies and writing: {100 * share:.2f} % of a run without")
    print(
        f"{rounds} pairs of {seconds:g} s of video, {result['processor_seconds']:.1f} s of "
        f"processor time each, {result['snapshots_a_run']:.1f} snapshots a run"
    )
    return result


def transformer(layers: int) -> Any:
    """Of the attention of the 1.3B model; its feed-forward part is small, as caches know none."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_layers=layers,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD,
        ffn_dim=64,
        text_dim=TEXT,
    )
    return model.to(torch.bfloat16).eval().requires_grad_(False)


@torch.no_grad()
def full(folder: Path, layers: int) -> dict[str, Any]:
    """One snapshot of caches that are full."""
    model = transformer(layers)
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randn(1, 16, TEXT, generator=draw).to(torch.bfloat16)
    policy = TetherCache()
    unused = mock.patch(
        "torch.nn.functional.scaled_dot_product_attention", lambda query, **_: query
    )
    with attach(model, policy, chunk_size=CHUNK, keep_rotated=False) as session, unused:
        for _ in range(CHUNKS):
            latents = torch.randn(1, 16, CHUNK, ROWS, COLUMNS, generator=draw)
            with session.chunk(CHUNK), session.context_pass(output=False):
                model(latents.to(torch.bfloat16), torch.zeros(1), prompt, return_dict=False)
        began = time.perf_counter()
        state = session.state_dict()
        copied = time.perf_counter() - began
        tensors, _ = split(state)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        snapshots = Snapshots(folder / "full.resume", keep=1)
        began, processor = time.perf_counter(), time.thread_time()
        snapshots.write(CHUNKS, {"session": state}, {"benchmark": True})
        wrote, worked = time.perf_counter() - began, time.thread_time() - processor
        del state, tensors
        began = time.perf_counter()
        (found,) = snapshots.whole()
        found.load()
        read = time.perf_counter() - began
    shutil.rmtree(snapshots.folder)
    result = {
        "layers": layers,
        "bytes": found.size,
        "tensor_bytes": size,
        "copy_seconds": copied,
        "write_seconds": wrote,
        "write_processor_seconds": worked,
        "read_seconds": read,
    }
    print(
        f"{layers} layers, {CHUNK * CHUNKS} latent frames of {ROWS // 2 * (COLUMNS // 2)} tokens: "
        f"{found.size / 1e9:.2f} GB; copied in {copied:.1f} s, written, hashed and on the disk in "
        f"{wrote:.1f} s ({worked:.1f} s of processor time, in a thread of its own), read and "
        f"compared with its hash in {read:.1f} s"
    )
    return result


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("shipped", "full"))
    parser.add_argument("--folder", type=Path, default=Path("snapshots"))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--layers", type=int, default=LAYERS)
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    if given.what == "shipped":
        result = shipped(given.folder, given.rounds, given.seconds)
    else:
        result = full(given.folder, given.layers)
    print(json.dumps({given.what: result}))


if __name__ == "__main__":
    main()
