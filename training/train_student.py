"""Make the few-step model: `python -m training.train_student --config FILE`.

Self-Forcing (Huang et al., 2025, arXiv 2506.08009) with distribution matching (DMD, Yin et al.,
2024, arXiv 2311.18828), all from the teacher's weights:

* the **student** rolls out videos from prompts alone, with the sampler and the clean context that
  it will have at inference, so what it conditions on is its own past, errors included;
* the **critic** learns, by flow matching, what the student's videos look like;
* the **teacher** stays as it is and is guided (away from the empty prompt).

A rollout with `clips` is of one chunk after scattered frames of a real clip, for the reason given
in `training.train_transformer` (`from_frame` and `turn` are those of its `scattered`).

At a random noise level, the difference between what the critic and what the teacher would restore
is the direction in which the student's output is too likely; the student steps against it. As in
Self-Forcing the gradient goes through one step of the sampler, at a random noise level, and not
into the context.

Axes: B videos, C latent channels, F latent frames, N chunks.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from tethercache.evaluation import world
from training import causal, text
from training.common import (
    Ema,
    average_gradients,
    join_workers,
    load_config,
    pick_device,
    run_stage,
    step_generator,
)
from training.train_transformer import LatentPool, build_models, load_average, sample_sigmas


def draw_captions(count: int, config: world.WorldConfig, generator: torch.Generator) -> list[str]:
    """Captions of scenes that are not held out."""
    rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    captions: list[str] = []
    while len(captions) < count:
        scene = world.sample_scene(int(rng.integers(world.HELD_OUT)), config)
        captions += [] if world.held_out(scene) else [scene.caption]
    return captions


def predict_x0(
    transformer: WanTransformer3DModel,
    processor: causal.StreamAttention,
    context: torch.Tensor,
    noisy: torch.Tensor,
    sigmas: torch.Tensor,
    embeds: torch.Tensor,
) -> torch.Tensor:
    """x0 of every chunk of `noisy` `[B, C, F, h, w]`, given the chunks of `context` before it.

    `noisy` are the last F frames of `context`, noised; `sigmas` `[B, N]` their chunks' levels.
    """
    if context.shape[2] == processor.chunk_size:
        flow = causal.first_chunk_flow(transformer, processor, noisy, sigmas[:, 0], embeds)
    else:
        levels = sigmas.repeat_interleave(processor.chunk_size, 1)
        flow = causal.predict_flow(
            transformer, processor, context, noisy[:, None], levels[:, None], embeds
        )[:, 0]
    return noisy - spread(sigmas, processor.chunk_size) * flow.float()


def spread(values: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """One value a chunk, `[B, N]`, as `[B, 1, F, 1, 1]`."""
    return values.repeat_interleave(chunk_size, 1)[:, None, :, None, None]


def add_noise(
    x0: torch.Tensor, sigmas: torch.Tensor, chunk_size: int, generator: torch.Generator
) -> torch.Tensor:
    """`x0` `[B, C, F, h, w]` at the noise levels `[B, N]`."""
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    level = spread(sigmas, chunk_size)
    return (1 - level) * x0 + level * noise


def matching_direction(
    made: torch.Tensor, critic_x0: torch.Tensor, teacher_x0: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """DMD's gradient, normalised per chunk (DMD, equations 7 and 8), `[B, C, F, h, w]`.

    (critic - teacher) / mean |made - teacher|: where the teacher is sure and the student is far,
    the step is not longer than elsewhere.
    """
    gap = (made - teacher_x0).abs().unflatten(2, (-1, chunk_size)).mean((1, 3, 4, 5))
    return (critic_x0 - teacher_x0) / spread(gap.clamp_min(1e-4), chunk_size)


def main() -> None:
    """Run every stage that is not finished; each starts from the one before."""
    config = load_config(__doc__)
    device = pick_device(config)
    join_workers()
    saved = torch.load(config["teacher"], map_location="cpu", weights_only=True)["state"]
    tokenizer, teacher, encoder = build_models(saved["config"])
    load_average({"transformer": teacher, "text_encoder": encoder}, saved["ema"])
    encoder.to(device).requires_grad_(False)
    teacher.to(device).requires_grad_(False)
    student, critic = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
    chunk = saved["config"]["chunk_size"]
    compiled = saved["config"]["compile"]
    looks = {
        m: causal.install(m, chunk, compile_blocks=compiled) for m in (teacher, student, critic)
    }
    ema = Ema({"transformer": student, "text_encoder": encoder}, config["ema"])
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.0, 0.99), weight_decay=0.0)
        for name, model, rate in (
            ("student", student, config["student_rate"]),
            ("critic", critic, config["critic_rate"]),
        )
    }
    empty = text.encode_prompts(tokenizer, encoder, [""])
    world_config = world.WorldConfig(**config["world"])
    rollouts = [rollout for stage in config["stages"] for rollout in stage["rollouts"]]
    pools = {r["clips"]: LatentPool(Path(r["clips"])) for r in rollouts if "clips" in r}

    def update(name: str, model: WanTransformer3DModel, loss: torch.Tensor, rate: float) -> None:
        optimizers[name].zero_grad()
        loss.backward()
        average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizers[name].param_groups:
            group["lr"] = rate
        optimizers[name].step()

    def state() -> dict[str, Any]:
        return {
            "models": {"student": student.state_dict(), "critic": critic.state_dict()},
            "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
            "ema": ema.shadow,
            "config": saved["config"],
        }

    def restore(values: dict[str, Any]) -> None:
        student.load_state_dict(values["models"]["student"])
        critic.load_state_dict(values["models"]["critic"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(values["optimizers"][name])
        ema.shadow = values["ema"]

    done_before = 0
    for number, stage in enumerate(config["stages"]):

        def step(
            index: int, number: int = number, stage: Any = stage, before: int = done_before
        ) -> dict[str, float]:
            generator = step_generator(config["seed"] + 97 * number, index)
            size = stage["rollouts"][index % len(stage["rollouts"])]
            batch, past, pool = size["batch"], None, pools.get(size.get("clips"))
            frames = chunk if pool else size["frames"]
            shape = (batch, frames // chunk)
            fade = 1 - 0.9 * max(0.0, index / stage["steps"] - 0.5) * 2 * stage["decay"]
            if pool:
                choice = {key: size[key] for key in ("from_frame", "turn") if key in size}
                window, captions = pool.batch(
                    batch, size["frames"], generator, chunk=chunk, **choice
                )
                past = window[:, :, :-chunk].to(device)
            else:
                captions = draw_captions(batch, world_config, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=saved["config"]["autocast"]):
                embeds = text.encode_prompts(tokenizer, encoder, captions).detach()
                with torch.compiler.set_stance("force_eager"):
                    video, states, made = causal.rollout(
                        student, looks[student], embeds, frames, generator, past=past
                    )
                exits = torch.randint(len(causal.SIGMAS), (batch,), generator=generator)
                rows = torch.arange(batch)
                sigmas = sample_sigmas(shape, generator, most=0.98).to(device)
                x0 = made[rows, exits]
                noisy = add_noise(x0, sigmas, chunk, generator)
                guess = predict_x0(critic, looks[critic], video, noisy, sigmas, embeds)
                flow_error = (guess - x0) / spread(sigmas, chunk)
                critic_loss = flow_error.pow(2).mean()
            update("critic", critic, critic_loss, config["critic_rate"])
            numbers = {"critic": float(critic_loss.detach()), "gap": 0.0, "push": 0.0}
            turn = before + index - config["critic_first"]
            if turn < 0 or turn % config["critic_steps"]:
                return numbers
            with torch.autocast(device.type, torch.bfloat16, enabled=saved["config"]["autocast"]):
                start = torch.tensor(causal.SIGMAS)[exits].to(device)[:, None]
                start = start.expand(shape)
                x0 = predict_x0(student, looks[student], video, states[rows, exits], start, embeds)
                sigmas = sample_sigmas(shape, generator, *config["matched_levels"]).to(device)
                with torch.no_grad():
                    noisy = add_noise(x0.detach(), sigmas, chunk, generator)
                    free = empty.expand(batch, -1, -1)
                    fake = predict_x0(critic, looks[critic], video, noisy, sigmas, embeds)
                    real = predict_x0(teacher, looks[teacher], video, noisy, sigmas, embeds)
                    base = predict_x0(teacher, looks[teacher], video, noisy, sigmas, free)
                    real = base + config["guidance"] * (real - base)
                    direction = matching_direction(x0, fake, real, chunk)
                loss = 0.5 * (x0 - (x0 - direction).detach()).pow(2).mean()
            update("student", student, loss, config["student_rate"] * fade)
            ema.update(turn // config["critic_steps"])
            numbers["gap"] = float((x0.detach() - real).abs().mean()) * config["critic_steps"]
            numbers["push"] = float(direction.abs().mean()) * config["critic_steps"]
            return numbers

        done_before += run_stage(
            steps=stage["steps"],
            state=state,
            restore=restore,
            step=step,
            folder=Path(config["out"]),
            name=f"{number}-{stage['name']}",
            columns=["critic", "gap", "push"],
            log_every=config["log_every"],
            save_minutes=config["save_minutes"],
        )


if __name__ == "__main__":
    main()
