"""Train the transformer and the text encoder: `python -m training.train_transformer --config FILE`.

`objective: teacher` is teacher forcing: flow matching of every chunk given the clean chunks before
it, with most of the noise levels at the four that the few-step sampler uses. Several noisy copies
of a clip share one clean half.

`objective: self` goes on from there with the model's own outputs as context: the few-step sampler
runs for all chunks in parallel, its x0 (with all its errors) replaces the clean context, in some
chunks twice over, and the target stays the true video. The world is predictable, so the target is
still right, and the model learns to correct its own errors in place of adding to them.

A stage with `pairs` learns the first chunk from the trajectories of `training.ode_pairs` in place
of the clips: a jump from any of the four noise levels to one definite end.

Axes: B clips, C latent channels, F latent frames, S noisy streams.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from training import causal, text, world
from training.common import Ema, Muon, load_config, pick_device, run_stage, step_generator


class LatentPool:
    """The shards on disk; `refresh` takes in those that were written since."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loaded = folder, set[Path]()
        self.latents: list[torch.Tensor] = []
        self.scenes: list[world.Scene] = []
        self.refresh()

    def refresh(self) -> None:
        """Load new shards, in the order of their names."""
        for path in sorted(self.folder.glob("shard_*.pt")):
            if path not in self.loaded:
                shard = torch.load(path, weights_only=False)
                config = world.WorldConfig(**shard["world"])
                self.latents += list(shard["latents"])
                self.scenes += [world.sample_scene(seed, config) for seed in shard["seeds"]]
                self.loaded.add(path)

    def batch(
        self, size: int, frames: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, list[str]]:
        """Latents `[B, C, F, h, w]` from the start of random clips, with fresh captions."""
        picks = torch.randint(len(self.latents), (size,), generator=generator).tolist()
        rng = world.np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        captions = [world.caption(self.scenes[i], rng) for i in picks]
        return torch.stack([self.latents[i][:, :frames] for i in picks]).float(), captions


class PairPool:
    """The first-chunk trajectories that `training.ode_pairs` wrote."""

    def __init__(self, folder: Path) -> None:
        shards = [torch.load(p, weights_only=False) for p in sorted(folder.glob("pairs_*.pt"))]
        self.captions = [caption for shard in shards for caption in shard["captions"]]
        self.states = torch.cat([shard["states"] for shard in shards])
        self.x0 = torch.cat([shard["x0"] for shard in shards])

    def batch(
        self, size: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
        """States `[B, C, 3, h, w]` at random levels, those levels `[B]`, x0 and captions."""
        picks = torch.randint(len(self.captions), (size,), generator=generator)
        levels = torch.randint(len(causal.SIGMAS), (size,), generator=generator)
        captions = [self.captions[i] for i in picks.tolist()]
        sigmas = torch.tensor(causal.SIGMAS)[levels]
        return self.states[picks, levels].float(), sigmas, self.x0[picks].float(), captions


def sample_sigmas(
    shape: tuple[int, ...], continuous: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise levels: one of the sampler's four, or with probability `continuous` any above the last.

    Uniform before the shift of 5; what lies between the four is for the ODE of
    `training.ode_pairs`.
    """
    pick = torch.randint(len(causal.SIGMAS), shape, generator=generator)
    u = 0.25 + 0.75 * torch.rand(shape, generator=generator)
    anywhere = torch.rand(shape, generator=generator) < continuous
    return torch.where(anywhere, 5 * u / (1 + 4 * u), torch.tensor(causal.SIGMAS)[pick])


def flow_loss(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    target: torch.Tensor,
    context: torch.Tensor,
    embeds: torch.Tensor,
    config: dict[str, Any],
    stage: dict[str, Any],
    generator: torch.Generator,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Flow matching of `target` `[B, C, F, h, w]` given `context` of the same shape, S streams."""
    b, c, f, h, w = target.shape
    s, chunk = stage["streams"], processor.chunk_size
    sigmas = sample_sigmas((b, s, f // chunk), config["continuous"], generator)
    sigmas = sigmas.repeat_interleave(chunk, 2).to(target.device)
    noise = torch.randn((b, s, c, f, h, w), generator=generator).to(target.device)
    level = sigmas[:, :, None, :, None, None]
    noisy = (1 - level) * target[:, None] + level * noise
    flow = causal.predict_flow(transformer, processor, context, noisy, sigmas, embeds)
    error = (flow - (noise - target[:, None])).pow(2).mean((2, 4, 5))
    with torch.no_grad():
        parts = error.detach().unflatten(2, (-1, chunk)).mean(-1)
        coarse = sigmas.unflatten(2, (-1, chunk))[..., 0]
        numbers = {"loss": float(error.detach().mean()), "first": float(parts[:, :, 0].mean())}
        numbers["later"] = float(parts[:, :, 1:].mean())
        low = (coarse - causal.SIGMAS[-1]).abs() < 1e-3
        numbers["low"] = float(parts[low].mean()) if low.any() else numbers["loss"]
    counted = error[:, :, chunk:] if stage.get("pairs") else error
    return counted.mean(), numbers


def pair_loss(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    states: torch.Tensor,
    sigmas: torch.Tensor,
    x0: torch.Tensor,
    embeds: torch.Tensor,
) -> torch.Tensor:
    """Jump from a trajectory's state `[B, C, 3, h, w]` at noise level `[B]` to its end."""
    flow = causal.first_chunk_flow(transformer, processor, states, sigmas, embeds)
    return (flow - (states - x0) / sigmas.view(-1, 1, 1, 1, 1)).pow(2).mean()


def own_context(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    target: torch.Tensor,
    embeds: torch.Tensor,
    stage: dict[str, Any],
    generator: torch.Generator,
) -> torch.Tensor:
    """The model's own x0 in place of the true latents, in a random share of the chunks.

    The first chunk has no past that determines it, so its own version starts from the truth at the
    sampler's last noise level; later chunks start from pure noise.
    """
    chunk, context = processor.chunk_size, target
    for _ in range(1 + int(torch.randint(stage["depth"], (1,), generator=generator))):
        own = causal.denoise_in_parallel(
            transformer, processor, context, target, 0, embeds, generator
        )
        own[:, :, :chunk] = causal.denoise_in_parallel(
            transformer, processor, target[:, :, :chunk], target[:, :, :chunk], 3, embeds, generator
        )
        shape = (target.shape[0], 1, target.shape[2] // chunk, 1, 1)
        replace = torch.rand(shape, generator=generator) < stage["own_share"]
        context = torch.where(replace.repeat_interleave(chunk, 2).to(target.device), own, context)
    return context


def build_optimizers(
    modules: dict[str, torch.nn.Module], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW (at half the rate) for all else."""
    matrices, others = [], []
    for module in modules.values():
        for key, value in module.named_parameters():
            inner = "block" in key and value.ndim == 2 and "relative" not in key
            (matrices if inner else others).append(value)
    return [
        Muon(matrices, lr=rate, decay=0.01),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def build_models(config: dict[str, Any]) -> tuple[Any, WanTransformer3DModel, Any]:
    """Tokenizer, transformer and text encoder, freshly initialised from the seed."""
    torch.manual_seed(config["seed"])
    tokenizer = text.build_tokenizer()
    transformer = WanTransformer3DModel(**config["transformer"])
    encoder = text.build_text_encoder(len(tokenizer), **config["text_encoder"])
    return tokenizer, transformer, encoder


def load_average(modules: dict[str, torch.nn.Module], shadow: dict[str, torch.Tensor]) -> None:
    """Put a checkpoint's averaged weights (`state["ema"]`) into modules."""
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {k[len(prefix) :]: v for k, v in shadow.items() if k.startswith(prefix)}
        )


def main() -> None:
    """Run every stage that is not finished; each starts from the one before."""
    config = load_config(__doc__)
    device = pick_device(config)
    tokenizer, transformer, encoder = build_models(config)
    modules = {"transformer": transformer.to(device), "text_encoder": encoder.to(device)}
    processor = causal.install(transformer, config["chunk_size"])
    optimizers = build_optimizers(modules, 1e-3)
    ema = Ema(modules, config["ema"])
    if config["init"]:
        start = torch.load(config["init"], map_location="cpu", weights_only=False)["state"]
        ema.shadow = start["ema"]
        load_average(modules, ema.shadow)

    def state() -> dict[str, Any]:
        return {
            "models": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "ema": ema.shadow,
            "config": config,
        }

    def restore(saved: dict[str, Any]) -> None:
        for name, module in modules.items():
            module.load_state_dict(saved["models"][name])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        ema.shadow = saved["ema"]

    done_before = 0
    for number, stage in enumerate(config["stages"]):
        pool = LatentPool(Path(stage["latents"]))
        pairs = PairPool(Path(stage["pairs"])) if stage.get("pairs") else None

        def step(
            index: int,
            number: int = number,
            stage: Any = stage,
            pool: LatentPool = pool,
            pairs: PairPool | None = pairs,
            before: int = done_before,
        ) -> Any:
            if index % 50 == 0:
                pool.refresh()
            rate = stage["learning_rate"] * min(1, (index + 1) / stage["warmup"])
            if stage["decay"]:
                rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * index / stage["steps"]))
            for optimizer, share in zip(optimizers, (1.0, 0.5), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * share
            generator = step_generator(config["seed"] + 97 * number, index)
            target, captions = pool.batch(stage["batch"], stage["frames"], generator)
            if stage.get("drop"):  # some empty prompts, so that the teacher can be guided later
                kept = torch.rand(len(captions), generator=generator) >= stage["drop"]
                captions = [c if keep else "" for c, keep in zip(captions, kept, strict=True)]
            target = target.to(device)
            embeds = text.encode_prompts(tokenizer, encoder, captions)
            context = target
            if stage["objective"] == "self":
                context = own_context(
                    transformer, processor, target, embeds.detach(), stage, generator
                )
            loss, numbers = flow_loss(
                transformer, processor, target, context, embeds, config, stage, generator
            )
            numbers["pairs"] = 0.0
            if pairs:
                states, sigmas, x0, captions = pairs.batch(stage["pair_batch"], generator)
                embeds = text.encode_prompts(tokenizer, encoder, captions)
                states, sigmas, x0 = (v.to(device) for v in (states, sigmas, x0))
                jump = pair_loss(transformer, processor, states, sigmas, x0, embeds)
                loss, numbers["pairs"] = loss + stage["pair_weight"] * jump, float(jump.detach())
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            parameters = [p for module in modules.values() for p in module.parameters()]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            ema.update(before + index)
            return numbers

        done_before += run_stage(
            steps=stage["steps"],
            state=state,
            restore=restore,
            step=step,
            folder=Path(config["out"]),
            name=f"{number}-{stage['name']}",
            columns=["loss", "first", "later", "low", "pairs"],
            log_every=config["log_every"],
            save_minutes=config["save_minutes"],
        )


if __name__ == "__main__":
    main()
