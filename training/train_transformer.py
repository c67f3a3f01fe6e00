"""Train the teacher: `python -m training.train_transformer --config FILE`.

Chunk-causal flow matching: every chunk is learned at any noise level, given the clean chunks
before it (teacher forcing), with some empty prompts so that the teacher can be guided later.
Several noisy copies of a clip share one clean half. A video's first chunk is the hard one, because
nothing but the prompt determines it, so there are batches of first chunks alone. Other parts of a
stage have chunks whose past is a scattered choice of frames, as a cache with a memory holds it.
Real video has cuts and teaches a model to live with gaps; clips of this world have none, and a
model that never saw one all but stands still when a policy recalls old frames. With a turning
camera such a past holds what comes into view again, and from there it must be copied.

A stage's `parts` are named losses. Each has its `clips` and a `batch`, and is taken every so many
steps (`every`, 1 by default, beginning `after` so many). Without `frames` they are first chunks,
with `frames` the first frames of clips, and with `past: scattered` a scattered choice (`from_frame`
and `turn` are those of `scattered`) whose last chunk alone is learned.

The text encoder learns with it and is final after this stage; `training.train_student` makes the
few-step model.

Axes: B clips, C latent channels, F latent frames, S noisy streams.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from transformers import T5EncoderModel

from tethercache.evaluation import world
from training import causal, text
from training.common import (
    Ema,
    Muon,
    average_gradients,
    join_workers,
    load_config,
    pick_device,
    run_stage,
    step_generator,
)


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
                shard = torch.load(path, weights_only=True)
                config = world.WorldConfig(**shard["world"])
                self.latents += list(shard["latents"])
                self.scenes += [world.sample_scene(seed, config) for seed in shard["seeds"]]
                self.loaded.add(path)

    def batch(
        self,
        size: int,
        frames: int,
        generator: torch.Generator,
        *,
        chunk: int | None = None,
        **choice: int,
    ) -> tuple[torch.Tensor, list[str]]:
        """Latents `[B, C, F, h, w]` of random clips, with fresh captions.

        They are the first frames of the clip or, if the size of a chunk is given, `scattered` ones,
        to which `choice` is handed on.
        """
        if not self.latents:
            raise FileNotFoundError(f"no shards in {self.folder}: `training.encode` writes them")
        picks = torch.randint(len(self.latents), (size,), generator=generator).tolist()
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        captions = [world.caption(self.scenes[i], rng) for i in picks]
        latents = []
        for i in picks:
            clip = self.latents[i]
            chosen = list(range(frames))
            if chunk:
                chosen = scattered(clip.shape[1], frames, chunk, generator, **choice)
            latents.append(clip[:, chosen].float())
        return torch.stack(latents), captions


def scattered(
    length: int,
    frames: int,
    chunk: int,
    generator: torch.Generator,
    from_frame: int = 0,
    turn: int = 0,
) -> list[int]:
    """Which `frames` frames of a clip a cache with a memory could hold, the last a whole chunk.

    The first chunk, any frames between, then some that follow each other and end with a chunk that
    starts anywhere from `frames` (and `from_frame`) on. How many are recalled and how many recent
    is drawn too, few recent ones most often: they are the hard case. With a camera that comes back
    after `turn` frames, one of the recalled ones shows what comes into view with the last chunk, in
    half of the cases at the least.
    """

    def draw(first: int, last: int) -> int:
        return int(torch.randint(first, last + 1, (1,), generator=generator))

    start = draw(max(frames, from_frame), length - chunk)
    recent = draw(1, draw(1, frames - 2 * chunk - 1))
    between = torch.randperm(start - recent - chunk, generator=generator) + chunk
    recalled = set(between[: frames - 2 * chunk - recent].tolist())
    if turn:
        same = min(max(chunk, start - turn + draw(0, 2 * chunk)), start - recent - 1)
        if draw(0, 1) and same not in recalled:
            recalled = {*list(recalled)[1:], same}
    return [*range(chunk), *sorted(recalled), *range(start - recent, start + chunk)]


def sample_sigmas(
    shape: tuple[int, ...], generator: torch.Generator, least: float = 0.02, most: float = 1.0
) -> torch.Tensor:
    """Noise levels: uniform in [least, most], then Wan's shift of 5."""
    u = least + (most - least) * torch.rand(shape, generator=generator)
    return 5 * u / (1 + 4 * u)


def stream_loss(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    target: torch.Tensor,
    embeds: torch.Tensor,
    streams: int,
    generator: torch.Generator,
    chunks: int | None = None,
) -> torch.Tensor:
    """Flow matching of the last `chunks` chunks of `[B, C, F, h, w]` given the clean past of each.

    By default of all but the first.
    """
    chunks = target.shape[2] // processor.chunk_size - 1 if chunks is None else chunks
    later = target[:, None, :, -chunks * processor.chunk_size :]
    b, _, c, f, h, w = later.shape
    sigmas = sample_sigmas((b, streams, f // processor.chunk_size), generator)
    sigmas = sigmas.repeat_interleave(processor.chunk_size, 2).to(target.device)
    noise = torch.randn((b, streams, c, f, h, w), generator=generator).to(target.device)
    level = sigmas[:, :, None, :, None, None]
    noisy = (1 - level) * later + level * noise
    flow = causal.predict_flow(transformer, processor, target, noisy, sigmas, embeds)
    return (flow - (noise - later)).pow(2).mean()


def first_loss(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    target: torch.Tensor,
    embeds: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Flow matching of first chunks `[B, C, chunk, h, w]`."""
    sigmas = sample_sigmas((len(target),), generator).to(target.device)
    noise = torch.randn(target.shape, generator=generator).to(target.device)
    level = sigmas.view(-1, 1, 1, 1, 1)
    flow = causal.first_chunk_flow(
        transformer, processor, (1 - level) * target + level * noise, sigmas, embeds
    )
    return (flow - (noise - target)).pow(2).mean()


def build_optimizers(
    modules: dict[str, torch.nn.Module], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW (at half the rate) for all else."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
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


def read_average(path: Path) -> dict[str, torch.Tensor]:
    """Averaged weights by module and name, of a checkpoint or of an exported model's folder."""
    if not path.is_dir():
        saved = torch.load(path, map_location="cpu", weights_only=True)["state"]
        shadow: dict[str, torch.Tensor] = saved["ema"]
        return shadow
    found = {
        "transformer": WanTransformer3DModel.from_pretrained(path / "transformer"),
        "text_encoder": T5EncoderModel.from_pretrained(path / "text_encoder"),
    }
    return {f"{n}.{key}": value for n, m in found.items() for key, value in m.state_dict().items()}


def load_average(modules: dict[str, torch.nn.Module], shadow: dict[str, torch.Tensor]) -> None:
    """Put a checkpoint's averaged weights (`state["ema"]`) into modules, where the shapes agree.

    A model with another patch size keeps its own patch embedding and output projection. A block
    that the checkpoint lacks adds nothing at first: what it would write is zero.
    """
    writes = ("attn1.to_out.0.", "attn2.to_out.0.", "ffn.net.2.")
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            known = shadow.get(f"{name}.{key}")
            if known is not None and known.shape == value.shape:
                value.copy_(known)
            elif known is None and key.partition(".")[2].partition(".")[2].startswith(writes):
                value.zero_()


def main() -> None:
    """Run every stage that is not finished; each starts from the one before."""
    config = load_config(__doc__)
    device = pick_device(config)
    join_workers()
    tokenizer, transformer, encoder = build_models(config)
    modules = {"transformer": transformer.to(device), "text_encoder": encoder.to(device)}
    parameters = [p for module in modules.values() for p in module.parameters()]
    processor = causal.install(transformer, config["chunk_size"], compile_blocks=config["compile"])
    optimizers = build_optimizers(modules, 1e-3)
    if config["init"]:
        load_average(modules, read_average(Path(config["init"])))
    ema = Ema(modules, config["ema"])

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
        pools = {part["clips"]: LatentPool(Path(part["clips"])) for part in stage["parts"].values()}

        def loss_of(
            part: dict[str, Any],
            generator: torch.Generator,
            stage: Any = stage,
            pools: dict[str, LatentPool] = pools,
        ) -> torch.Tensor:
            """One part's loss on a fresh batch, some of its prompts empty."""
            chunk, frames = config["chunk_size"], part.get("frames")
            gaps = part.get("past") == "scattered"
            target, captions = pools[part["clips"]].batch(
                part["batch"],
                frames or chunk,
                generator,
                chunk=chunk if gaps else None,
                **{key: part[key] for key in ("from_frame", "turn") if key in part},
            )
            kept = torch.rand(len(captions), generator=generator) >= stage["drop"]
            captions = [c if keep else "" for c, keep in zip(captions, kept, strict=True)]
            embeds = text.encode_prompts(tokenizer, encoder, captions)
            target = target.to(device)
            if not frames:
                return first_loss(transformer, processor, target, embeds, generator)
            return stream_loss(
                transformer,
                processor,
                target,
                embeds,
                part["streams"],
                generator,
                chunks=1 if gaps else None,
            )

        def step(
            index: int,
            number: int = number,
            stage: Any = stage,
            pools: dict[str, LatentPool] = pools,
            loss_of: Any = loss_of,
            before: int = done_before,
        ) -> dict[str, float]:
            if index % 50 == 0:
                for pool in pools.values():
                    pool.refresh()
            set_rates(optimizers, stage, index)
            generator = step_generator(config["seed"] + 97 * number, index)
            due = {
                name: part
                for name, part in stage["parts"].items()
                if index % part.get("every", 1) == part.get("after", 0)
            }
            for optimizer in optimizers:
                optimizer.zero_grad()
            losses = dict.fromkeys(stage["parts"], 0.0)
            for name, part in due.items():
                with torch.autocast(device.type, torch.bfloat16, enabled=config["autocast"]):
                    loss = loss_of(part, generator)
                loss.backward()
                losses[name] = float(loss.detach()) * part.get("every", 1)
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            ema.update(before + index)
            return losses

        done_before += run_stage(
            steps=stage["steps"],
            state=state,
            restore=restore,
            step=step,
            folder=Path(config["out"]),
            name=f"{number}-{stage['name']}",
            columns=list(stage["parts"]),
            log_every=config["log_every"],
            save_minutes=config["save_minutes"],
        )


def set_rates(optimizers: list[torch.optim.Optimizer], stage: dict[str, Any], index: int) -> None:
    """Learning rates at step `index`: warm-up, then a cosine down to 5 %; the second's is half."""
    rate = stage["learning_rate"] * min(1, (index + 1) / stage["warmup"])
    rate *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * index / stage["steps"]))
    for optimizer, share in zip(optimizers, (1.0, 0.5), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


if __name__ == "__main__":
    main()
