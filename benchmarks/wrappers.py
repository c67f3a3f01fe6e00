"""What does a wrapper cost, and what does a trace? Policies take turns, chunk by chunk.

    python benchmarks/wrappers.py > benchmarks/results/wrappers.txt

Each policy stands beside the same one without its last wrapper: the shipped model makes the next
chunk of a long video for each of them in turn, in random order, four denoising passes and the
context pass, all caches full. What is compared is processor time of the whole chunk, and of its
context pass. `+ trace` is no wrapper: the chunk is observed, and its line of a trace is written.
A ratio is the median of the rounds' ratios with its 95 % bootstrap interval.

Prints a table, then one JSON line; the exit status is 1 if `commit-read`, which reads less, costs
more than the policy that it changes: if the whole interval is above 1.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from commits import BUDGET, CHUNK, SIGMAS, model

from tethercache.backbones import attach
from tethercache.bench.statistics import paired_ratio, spread
from tethercache.policies import POLICIES
from tethercache.trace import Tracer
from tethercache.trace.file import TraceWriter

TRACE = "trace"
SPECS = (
    "tethercache + commit-read",
    "sink + commit-read",
    "tethercache + read-mask:hide=sink,passes=denoising",
    "tethercache + late-far",
    "tethercache + shifted",
    "tethercache + recency",
    "tethercache + dysink-gate",
    f"tethercache + {TRACE}",
)


class Contestant:
    """One policy in the middle of a video.

    Args:
        spec: the policy, or that of which a trace is written.
        parts: transformer, shape of its latents, shape of a prompt.
        trace: the trace file, if one is written.
        stack: closes what is open.
    """

    def __init__(
        self, spec: str, parts: tuple[Any, ...], trace: Path | None, stack: ExitStack
    ) -> None:
        transformer, shape, text = parts
        shared = {id(t): t for t in (*transformer.parameters(), *transformer.buffers())}
        self._model = copy.deepcopy(transformer, shared)  # modules of its own, the same weights
        policy = POLICIES.parse(spec)
        self._session = stack.enter_context(attach(self._model, policy, chunk_size=CHUNK))
        generator = torch.Generator().manual_seed(0)
        self._latents, self._prompt = (torch.randn(s, generator=generator) for s in (shape, text))
        self._chunks, self._tracer, self._writer = 0, None, None
        if trace is not None:
            self._tracer, self._writer = Tracer(), TraceWriter(trace, {})
            self._tracer.watch(self._session)
            stack.callback(self._writer.close)

    def chunk(self) -> tuple[float, float]:
        """Make the next chunk; returns seconds of the whole and of its context pass."""
        started = time.process_time()
        with self._session.chunk(CHUNK):
            for sigma in SIGMAS:
                with self._session.denoising_pass():
                    self._model(self._latents, torch.full((1,), sigma), self._prompt)
            before = time.process_time()
            with self._session.context_pass(output=False):
                self._model(self._latents, torch.zeros(1), self._prompt)
            context = time.process_time() - before
        if self._tracer is not None and self._writer is not None:
            place = self._chunks * CHUNK
            self._writer.write(self._tracer.take(self._chunks, place, place + CHUNK))
        self._chunks += 1
        return time.process_time() - started, context


def measure(specs: list[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each round, by policy."""
    parts = model("tiny")
    with torch.no_grad(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = {}
        for spec in specs:
            inside, traced = _base(spec), spec.endswith(f"+ {TRACE}")
            path = folder / "a.trace.jsonl.gz" if traced else None
            made[spec] = Contestant(inside if traced else spec, parts, path, stack)
        for contestant in made.values():
            for _ in range(BUDGET // CHUNK + 2):  # full, and the first frames have left
                contestant.chunk()
        seconds: dict[str, list[tuple[float, float]]] = {spec: [] for spec in specs}
        order = random.Random(0)
        for _ in range(rounds):
            for spec in order.sample(specs, len(specs)):
                seconds[spec].append(made[spec].chunk())
    return seconds


def _base(spec: str) -> str:
    return spec.rpartition(" + ")[0]


def row(spec: str, seconds: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """What the table says of one policy."""
    chunk, context = zip(*seconds[spec], strict=True)
    found: dict[str, Any] = {
        "policy": spec,
        "chunk_ms": round(1e3 * statistics.median(chunk), 2),
        "spread": round(spread(chunk), 4),
        "context_ms": round(1e3 * statistics.median(context), 2),
    }
    if base := _base(spec):
        for name, ours, theirs in zip(
            ("chunk", "context"), (chunk, context), zip(*seconds[base], strict=True), strict=True
        ):
            ratio = paired_ratio(ours, theirs)
            found[f"{name}_ratio"] = round(ratio.median, 4)
            found[f"{name}_interval"] = [round(ratio.low, 4), round(ratio.high, 4)]
    return found


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", default=SPECS, help="policies with a wrapper")
    parser.add_argument("--rounds", type=int, default=41, help="timed chunks of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    specs = list(dict.fromkeys(s for spec in given.specs for s in (_base(spec), spec) if s))
    seconds = measure(specs, given.rounds)
    rows = [row(spec, seconds) for spec in specs]
    print(
        f"{'policy':<52}{'chunk ms':>9}{'spread':>8}{'context ms':>12}   "
        f"{'chunk, ratio [95 %]':<24}context, ratio [95 %]"
    )
    for each in rows:
        line = f"{each['policy']:<52}{each['chunk_ms']:>9.1f}{each['spread']:>8.3f}"
        line += f"{each['context_ms']:>12.1f}   "
        for name in ("chunk", "context"):
            if f"{name}_ratio" in each:
                low, high = each[f"{name}_interval"]
                shown = f"{each[f'{name}_ratio']:.3f} [{low:.3f}, {high:.3f}]"
                line += f"{shown:<24}"
        print(line.rstrip())
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
    }
    print(
        json.dumps(
            {"benchmark": "wrappers", "rounds": given.rounds, "rows": rows, "machine": machine}
        )
    )
    dearer = [
        each["policy"]
        for each in rows
        if each["policy"].endswith("commit-read") and each["chunk_interval"][0] > 1
    ]
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
