"""Trajectories of the first chunk, for a model that makes it in four steps.

`python -m training.ode_pairs --config training/configs/pairs.yaml`

A video's first chunk has no past that determines it, so the teacher's x0 at a high noise level is
a mean over all that could be, and four steps of means fade the objects away. The probability-flow
ODE, in many small steps, ends in one definite sample. Here the teacher runs it from pure noise and
keeps the states at the sampler's four noise levels and the end; `training.train_transformer` then
teaches the model to jump from any of them to that end (the ODE initialisation of CausVid and
Self-Forcing).

Axes: N samples, C latent channels, 3 latent frames, h, w.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from training import causal, text, world
from training.common import load_config, pick_device, save_atomic, step_generator
from training.train_transformer import build_models, load_average


@torch.no_grad()
def trajectory(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    noise: torch.Tensor,
    embeds: torch.Tensor,
    empty: torch.Tensor,
    guidance: float,
    substeps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Euler steps from noise `[N, C, 3, h, w]`, `substeps` between neighbouring noise levels.

    With `guidance` g the flow is empty + g * (prompted - empty), `empty` being the embeddings of
    no prompt; 1 is none.

    Returns the states at `causal.SIGMAS`, `[N, 4, C, 3, h, w]`, and x0 `[N, C, 3, h, w]`. Below the
    last level little is undecided, so half as many steps lead from there to the end.
    """
    x, states = noise, []
    ends = [*causal.SIGMAS[1:], 0.0]
    for start, end in zip(causal.SIGMAS, ends, strict=True):
        states.append(x)
        steps = substeps if end else max(1, substeps // 2)
        width = (end - start) / steps
        for i in range(steps):
            sigma = start + i * width
            level = torch.full((len(x),), sigma, device=x.device)
            flow = causal.first_chunk_flow(transformer, processor, x, level, embeds)
            if guidance != 1:
                free = causal.first_chunk_flow(transformer, processor, x, level, empty)
                flow = free + guidance * (flow - free)
            x = x + width * flow
    return torch.stack(states, 1), x


def main() -> None:
    """Write the shards that are missing."""
    config = load_config(__doc__)
    device = pick_device(config)
    saved = torch.load(config["teacher"], map_location="cpu", weights_only=False)["state"]
    tokenizer, transformer, encoder = build_models(saved["config"])
    load_average({"transformer": transformer, "text_encoder": encoder}, saved["ema"])
    transformer.to(device), encoder.to(device)
    processor = causal.install(transformer, saved["config"]["chunk_size"])
    world_config = world.WorldConfig(**config["world"])
    seed = config["first_seed"]
    for shard in range(config["shards"]):
        captions: list[str] = []
        while len(captions) < config["batch"]:
            scene = world.sample_scene(seed, world_config)
            captions += [] if world.held_out(scene) else [scene.caption]
            seed += 1
        path = Path(config["out"]) / f"pairs_{shard:04d}.pt"
        if path.exists() or shard % config["workers"] != config["worker"]:
            continue
        start = time.monotonic()
        shape = (len(captions), transformer.config.in_channels, processor.chunk_size, 8, 8)
        noise = torch.randn(shape, generator=step_generator(config["seed"], shard)).to(device)
        with torch.no_grad():
            embeds = text.encode_prompts(tokenizer, encoder, captions)
            empty = text.encode_prompts(tokenizer, encoder, [""] * len(captions))
        states, x0 = trajectory(
            transformer, processor, noise, embeds, empty, config["guidance"], config["substeps"]
        )
        state = {"captions": captions, "states": states.half().cpu(), "x0": x0.half().cpu()}
        save_atomic(state, path)
        print(f"{path.name}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
