"""What a pipeline is given in one call, checked and complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tethercache.arguments import float_tensor, instance, texts, whole_number
from tethercache.cache import Policy
from tethercache.models import Settings
from tethercache.pipeline.refused import refuse
from tethercache.policies import as_policy
from tethercache.request import VideoPlan, plan_video
from tethercache.rollout import Action, CounterNoise
from tethercache.rollout.plan import latent_span
from tethercache.script import Change, changes_by_chunk, check_policies, in_order, texts_of


@dataclass(frozen=True)
class Inputs:
    """What a caller asked for, checked and complete.

    Attributes:
        prompts: to encode; none where their embeddings are given instead of them.
        videos_per_prompt: how many videos of each prompt in a row.
        latent_size: height and width of a latent frame.
        policy: what the model remembers.
        plan: chunks and length.
        noise: seed and samples of all videos.
        prefix_latents: clean latents `[B, C, F, h, w]` to start from, or None.
        prompt_embeds: text embeddings `[B, L, C_text]`, or None to encode the prompts.
        changes: what changes over time, by the number of the chunk before which it does.
        then_embeds: text embeddings `[1, L, C_text]` of the prompts in it that are encoded.
        times: frames a second, and frames a latent frame.
    """

    prompts: list[str]
    videos_per_prompt: int
    latent_size: tuple[int, int]
    policy: Policy
    plan: VideoPlan
    noise: CounterNoise
    prefix_latents: Tensor | None
    prompt_embeds: Tensor | None
    changes: Mapping[int, tuple[Change, ...]]
    then_embeds: Mapping[str, Tensor]
    times: tuple[float, int]

    def actions(self, encode: Callable[[list[str]], Tensor]) -> dict[int, list[Action]]:
        """The changes as a rollout takes them; `encode` makes embeddings of prompts."""
        return {
            chunk: [self._action(change, encode) for change in changes]
            for chunk, changes in self.changes.items()
        }

    def _action(self, change: Change, encode: Callable[[list[str]], Tensor]) -> Action:
        embeds = None
        if change.text is not None:
            embeds = self.then_embeds.get(change.text)
            embeds = encode([change.text]) if embeds is None else embeds
            embeds = embeds.expand(len(self.noise.samples), -1, -1)
        return action_of(change, embeds, self.noise.samples, self.times)


def action_of(
    change: Change, embeds: Tensor | None, samples: Sequence[int], times: tuple[float, int]
) -> Action:
    """A change as a rollout takes it.

    Args:
        change: what changes.
        embeds: text embeddings `[B, L, C_text]` of its text, if it has one.
        samples: sample numbers of the batch.
        times: frames a second, and frames a latent frame.
    """

    def span(seconds: tuple[float, float] | None) -> tuple[int, int] | None:
        return None if seconds is None else latent_span(seconds, *times)

    return Action(
        embeds,
        change.how,
        None if change.seed is None else CounterNoise(change.seed, samples),
        None if change.policy is None else as_policy(change.policy),
        span(change.pin),
        span(change.forget),
    )


def check_inputs(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    policy: Policy | str | None = None,
    *,
    num_frames: int | None = None,
    num_seconds: float | None = None,
    num_latent_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_videos_per_prompt: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    seed: int | Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
    prefix_latents: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
    then: Sequence[Change] = (),
    then_embeds: Mapping[str, Tensor] | None = None,
    **others: Any,
) -> Inputs:
    """Check everything that a caller may get wrong, before anything is computed.

    Args:
        pipe: a `CausalVideoPipeline`.
        prompt: one prompt, or several; None if there are embeddings.
        policy: what the model remembers, or its spec; None: `tethercache`.
        num_frames: length in pixel frames.
        num_seconds: length in seconds instead.
        num_latent_frames: length in latent frames instead.
        height: pixel rows; None: those of the model.
        width: pixel columns; None: those of the model.
        num_videos_per_prompt: how many videos of each prompt.
        generator: gives the seed, or, as a list, one for each video.
        seed: of the noise, or one for each video; None: 0.
        samples: sample number of each video; None: 0, 1, ..., or 0 where each has its own seed.
        prefix_latents: clean latents `[B, C, F, h, w]` to start from.
        prompt_embeds: text embeddings `[B, L, C_text]`, one a prompt; None: the prompts are
            encoded.
        then: what changes over time, in all samples.
        then_embeds: text embeddings `[1, L, C_text]` of prompts in `then`; others are encoded.
        **others: arguments of other pipelines, see `refused`.

    Raises:
        TypeError: for an argument that no pipeline has.
        ValueError: naming the argument, the rule and the value.
    """
    settings, config = pipe.settings, pipe.transformer.config
    refuse(others, settings, inspect.signature(check_inputs).parameters)
    prompts = _prompts(pipe, prompt, prompt_embeds, config.text_dim)
    each = whole_number("num_videos_per_prompt", num_videos_per_prompt, least=1)
    videos = each * (len(prompts) if prompt_embeds is None else len(prompt_embeds))
    then, then_embeds = in_order(then), dict(then_embeds or {})
    for text in texts_of(then):
        if text in then_embeds:
            float_tensor("then_embeds", then_embeds[text], (1, "L", config.text_dim))
        elif pipe.text_encoder is None:
            raise ValueError(
                f"`then_embeds` must have {text!r}, for the pipeline has no text encoder"
            )
    latent_size = _latent_size(pipe, settings, height, width)
    if prefix_latents is not None:
        shape = (videos, config.in_channels, "F", *latent_size)
        float_tensor("prefix_latents", prefix_latents, shape)
    if num_frames is not None:
        if (num_seconds, num_latent_frames) != (None, None):
            raise ValueError("give a length in frames, in seconds or in latent frames, one of them")
        # exactly so many again, when the seconds are planned
        num_seconds = whole_number("num_frames", num_frames, least=1) / settings.fps
    policy = as_policy("tethercache" if policy is None else policy)
    times = (settings.fps, pipe.vae.config.scale_factor_temporal)
    plan = plan_video(
        settings,
        policy,
        num_seconds=num_seconds,
        num_latent_frames=num_latent_frames,
        prefix=0 if prefix_latents is None else prefix_latents.shape[2],
        frames_per_latent=times[1],
    )
    changes = changes_by_chunk(then, plan.chunks, *times)
    check_policies(then, policy, plan.chunks)
    noise = _noise(generator, seed, samples, videos)  # last: a generator is drawn from
    made_of = (prefix_latents, prompt_embeds, changes, then_embeds, times)
    return Inputs(prompts, each, latent_size, policy, plan, noise, *made_of)


def _prompts(
    pipe: Any, prompt: str | Sequence[str] | None, embeds: Tensor | None, channels: int
) -> list[str]:
    """The prompts, checked together with their embeddings."""
    if prompt is None and embeds is None:
        raise ValueError("`prompt` or `prompt_embeds` must be given")
    prompts = [] if prompt is None else texts("prompt", prompt)
    if embeds is not None:
        float_tensor("prompt_embeds", embeds, (len(prompts) or "B", "L", channels))
    elif pipe.text_encoder is None:
        raise ValueError("`prompt_embeds` must be given, for the pipeline has no text encoder")
    return prompts


def _latent_size(
    pipe: Any, settings: Settings, height: int | None, width: int | None
) -> tuple[int, int]:
    """Height and width of a latent frame, for a size in pixels or that of the model."""
    size = replace(
        settings,
        height=settings.height if height is None else height,
        width=settings.width if width is None else width,
    )
    scale = pipe.vae.config.scale_factor_spatial
    size.check_size(scale, *pipe.transformer.config.patch_size[1:])
    return size.height // scale, size.width // scale


def _noise(
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seed: int | Sequence[int] | None,
    samples: Sequence[int] | None,
    videos: int,
) -> CounterNoise:
    """The noise of all videos: of a seed, or of what generators draw as such."""
    if generator is not None and seed is not None:
        raise ValueError("give `generator` or `seed`, one of the two")
    if isinstance(generator, Sequence):
        seed = [_drawn(f"generator[{i}]", one) for i, one in enumerate(generator)]
    elif generator is not None:
        seed = _drawn("generator", generator)
    seed = 0 if seed is None else seed
    several = isinstance(seed, Sequence) and not isinstance(seed, str)
    if samples is None:
        samples = [0] * videos if several else range(videos)
    noise = CounterNoise(seed, samples)
    if len(noise.samples) != videos:
        raise ValueError(f"`samples` ({len(noise.samples)}) must be as many as videos ({videos})")
    return noise


def _drawn(name: str, generator: Any) -> int:
    """A seed out of a generator, which draws another one the next time."""
    instance(name, generator, torch.Generator, "a `torch.Generator`")
    draw = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    return int(draw)
