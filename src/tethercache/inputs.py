"""What a pipeline is given in one call, checked and complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tethercache.arguments import float_tensor, texts
from tethercache.cache import Policy
from tethercache.policies import as_policy
from tethercache.request import VideoPlan, plan_video
from tethercache.rollout import CounterNoise


@dataclass(frozen=True)
class Inputs:
    """What a caller asked for, checked and complete.

    Attributes:
        prompts: one a sample.
        policy: what the model remembers.
        plan: chunks and length.
        noise: seed and samples.
        prefix_latents: clean latents `[B, C, F, h, w]` to start from, or None.
        prompt_embeds: text embeddings `[B, L, C_text]`, or None to encode the prompts.
    """

    prompts: list[str]
    policy: Policy
    plan: VideoPlan
    noise: CounterNoise
    prefix_latents: Tensor | None
    prompt_embeds: Tensor | None


def check_inputs(
    pipe: Any,
    prompt: str | Sequence[str],
    policy: Policy | str | None = None,
    *,
    num_seconds: float | None = None,
    num_latent_frames: int | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    prefix_latents: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
) -> Inputs:
    """Check everything that a caller may get wrong, before anything is computed.

    Args:
        pipe: a `CausalVideoPipeline`.
        prompt: one prompt, or one a sample.
        policy: what the model remembers, or its spec; None: `tethercache`.
        num_seconds: length in seconds.
        num_latent_frames: length in latent frames instead.
        seed: of the noise.
        samples: sample number of each prompt; None: 0, 1, ...
        prefix_latents: clean latents `[B, C, F, h, w]` to start from.
        prompt_embeds: text embeddings `[B, L, C_text]`; None: the prompts are encoded.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """
    prompts, config = texts("prompt", prompt), pipe.transformer.config
    noise = CounterNoise(seed, range(len(prompts)) if samples is None else samples)
    if len(noise.samples) != len(prompts):
        raise ValueError(
            f"`samples` ({len(noise.samples)}) must be as many as prompts ({len(prompts)})"
        )
    if prompt_embeds is not None:
        float_tensor("prompt_embeds", prompt_embeds, (len(prompts), "L", config.text_dim))
    elif pipe.text_encoder is None:
        raise ValueError("`prompt_embeds` must be given, for the pipeline has no text encoder")
    settings = pipe.settings
    settings.check_size(pipe.vae.config.scale_factor_spatial, *config.patch_size[1:])
    if prefix_latents is not None:
        shape = (len(prompts), config.in_channels, "F", *pipe.latent_size)
        float_tensor("prefix_latents", prefix_latents, shape)
    policy = as_policy("tethercache" if policy is None else policy)
    plan = plan_video(
        settings,
        policy,
        num_seconds=num_seconds,
        num_latent_frames=num_latent_frames,
        prefix=0 if prefix_latents is None else prefix_latents.shape[2],
        frames_per_latent=pipe.vae.config.scale_factor_temporal,
    )
    return Inputs(prompts, policy, plan, noise, prefix_latents, prompt_embeds)
