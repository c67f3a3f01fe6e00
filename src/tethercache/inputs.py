"""What a pipeline is given in one call, checked and complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tethercache.arguments import float_tensor, texts
from tethercache.cache import Policy
from tethercache.policies import as_policy
from tethercache.request import VideoPlan, plan_video
from tethercache.rollout import Action, CounterNoise
from tethercache.rollout.plan import latent_span
from tethercache.script import Change, changes_by_chunk, check_policies, in_order, texts_of


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
        changes: what changes over time, by the number of the chunk before which it does.
        then_embeds: text embeddings `[1, L, C_text]` of the prompts in it that are encoded.
        times: frames a second, and frames a latent frame.
    """

    prompts: list[str]
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
            embeds = embeds.expand(len(self.prompts), -1, -1)
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
    prompt: str | Sequence[str],
    policy: Policy | str | None = None,
    *,
    num_seconds: float | None = None,
    num_latent_frames: int | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    prefix_latents: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
    then: Sequence[Change] = (),
    then_embeds: Mapping[str, Tensor] | None = None,
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
        then: what changes over time, in all samples.
        then_embeds: text embeddings `[1, L, C_text]` of prompts in `then`; others are encoded.

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
    then, then_embeds = in_order(then), dict(then_embeds or {})
    for text in texts_of(then):
        if text in then_embeds:
            float_tensor("then_embeds", then_embeds[text], (1, "L", config.text_dim))
        elif pipe.text_encoder is None:
            raise ValueError(
                f"`then_embeds` must have {text!r}, for the pipeline has no text encoder"
            )
    settings = pipe.settings
    settings.check_size(pipe.vae.config.scale_factor_spatial, *config.patch_size[1:])
    if prefix_latents is not None:
        shape = (len(prompts), config.in_channels, "F", *pipe.latent_size)
        float_tensor("prefix_latents", prefix_latents, shape)
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
    about = (changes, then_embeds, times)
    return Inputs(prompts, policy, plan, noise, prefix_latents, prompt_embeds, *about)
