"""Full size on any machine: a random Self-Forcing checkpoint converts, loads and makes one chunk.

    python benchmarks/full_size.py build convert load generate --folder /tmp/full-size

`build` writes a 1.3B training state with the names and shapes of the published one and random
values in bfloat16 (2.8 GB); `convert` makes a folder of diffusers of it; `load` loads that, and
`generate` also makes one chunk of 3 latent frames at 480x832 (4 denoising passes and the context
pass), without text encoder and VAE. Each step is a process of its own, so that its peak memory is
its own. On two CPU cores a pass takes minutes. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

WIDTH, FFN, LAYERS, TEXT, FREQ, CHANNELS = 1536, 8960, 30, 4096, 256, 16
CHUNK, ROWS, COLUMNS, TEXT_LENGTH = 3, 60, 104, 512
STEPS = ("build", "convert", "load", "generate")


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Self-Forcing state dict (`docs/reference.md`, section 6)."""

    def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (WIDTH, CHANNELS, 1, 2, 2),
        "patch_embedding.bias": (WIDTH,),
        "head.modulation": (1, 2, WIDTH),
        **linear("head.head", WIDTH, 4 * CHANNELS),
        **linear("text_embedding.0", TEXT, WIDTH),
        **linear("text_embedding.2", WIDTH, WIDTH),
        **linear("time_embedding.0", FREQ, WIDTH),
        **linear("time_embedding.2", WIDTH, WIDTH),
        **linear("time_projection.1", WIDTH, 6 * WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        shapes |= linear(f"{block}.ffn.0", WIDTH, FFN) | linear(f"{block}.ffn.2", FFN, WIDTH)
        shapes[f"{block}.modulation"] = (1, 6, WIDTH)
        shapes |= {f"{block}.norm3.{part}": (WIDTH,) for part in ("weight", "bias")}
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for part in "qkvo":
                shapes |= linear(f"{attention}.{part}", WIDTH, WIDTH)
            shapes |= {f"{attention}.norm_{part}.weight": (WIDTH,) for part in "qk"}
    return {f"model.{name}": shape for name, shape in shapes.items()}


def build(folder: Path, dtype: torch.dtype) -> None:
    """Write the checkpoint; values are small, so that activations stay finite."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in official_shapes().items():
        if "norm" in name and name.endswith("weight"):
            state[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            scale = 0.02 if len(shape) < 2 else shape[-1] ** -0.5
            values = torch.randn(shape, generator=random) * min(scale, 0.05)
            state[name] = values.to(torch.bfloat16)
    torch.save({"generator_ema": state}, folder / "checkpoint.pt")


def convert(folder: Path, dtype: torch.dtype) -> None:
    """Make a folder of diffusers of it."""
    from tethercache.models.checkpoints.convert import convert

    convert(folder / "checkpoint.pt", folder / "converted")


def load(folder: Path, dtype: torch.dtype) -> None:
    """Load the folder, ready to compute."""
    from tethercache.models.checkpoints.load import load_transformer

    load_transformer(folder / "converted", dtype=dtype)


@torch.no_grad()
def generate(folder: Path, dtype: torch.dtype) -> None:
    """Make one chunk."""
    from diffusers import FlowMatchLCMScheduler

    from tethercache.backbones import attach
    from tethercache.models.checkpoints.load import load_transformer
    from tethercache.policies.tethercache import TetherCache
    from tethercache.rollout import CounterNoise, Plan, Rollout, Steps

    started = time.perf_counter()
    transformer = load_transformer(folder / "converted", dtype=dtype)
    parameters = sum(p.numel() for p in transformer.parameters())
    _say(f"loaded {parameters / 1e6:.1f} M parameters in {time.perf_counter() - started:.1f} s")
    passes = []

    def done(*_: object) -> None:
        passes.append(time.perf_counter())
        _say(f"pass {len(passes)} of 5 after {passes[-1] - started:.0f} s")

    transformer.register_forward_hook(done)
    prompt = torch.randn(1, TEXT_LENGTH, TEXT, generator=torch.Generator().manual_seed(1))
    policy, plan = TetherCache(), Plan(CHUNK, chunk_size=CHUNK)
    with attach(transformer, policy, chunk_size=CHUNK) as session:
        (latents,) = Rollout(
            transformer,
            session,
            plan,
            Steps.from_scheduler(FlowMatchLCMScheduler(shift=5.0), [1.0, 0.75, 0.5, 0.25]),
            CounterNoise(),
            prompt.to(dtype),
            latent_size=(ROWS, COLUMNS),
        )
    assert latents.shape == (1, CHANNELS, CHUNK, ROWS, COLUMNS)
    assert bool(latents.isfinite().all())
    _say(
        f"latents {list(latents.shape)} {latents.dtype}, mean {latents.float().mean():.4f}, "
        f"standard deviation {latents.float().std():.4f}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def run_step(step: str, folder: Path, dtype: torch.dtype) -> None:
    """Run one step in this process and print its time and peak memory as JSON."""
    peak, finished = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.02):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        {"build": build, "convert": convert, "load": load, "generate": generate}[step](
            folder, dtype
        )
    finally:
        finished.set()
        watcher.join()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"seconds": seconds, "anonymous": peak, "resident": resident}))


def main() -> None:
    """Run the steps, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", default=list(STEPS), metavar="STEP", help=str(STEPS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.here:
        run_step(options.steps[0], options.folder, getattr(torch, options.dtype))
        return
    results = {}
    print("| step | seconds | peak anonymous GB | peak resident GB |\n| --- | --- | --- | --- |")
    for step in options.steps:
        command = [sys.executable, __file__, step, "--here"]
        command += ["--folder", str(options.folder), "--dtype", options.dtype]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = results[step] = json.loads(done.stdout.splitlines()[-1])
        sizes = " | ".join(f"{result[key] / 1e9:.2f}" for key in ("anonymous", "resident"))
        print(f"| {step} | {result['seconds']} | {sizes} |", flush=True)
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
    }
    print(json.dumps({"benchmark": "full_size", "machine": machine, "steps": results}))


if __name__ == "__main__":
    main()
