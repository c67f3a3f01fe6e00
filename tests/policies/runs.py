"""Short rollouts on the toy transformer, for policy tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.oracles.naive_session import naive_attach
from tests.toys import TEXT_DIM, TEXT_LENGTH, toy_transformer
from tethercache.backbones import Session, attach
from tethercache.cache import Policy
from tethercache.cache.bank import Observer
from tethercache.rollout import CounterNoise, Plan, Rollout, Steps

STEPS = Steps(timesteps=(1000.0, 833.3333), sigmas=(1.0, 0.8333333))
LATENT_SIZE = (4, 4)
TRANSFORMER = toy_transformer()


def prompt(batch: int = 1, seed: int = 7) -> Tensor:
    return torch.randn(batch, TEXT_LENGTH, TEXT_DIM, generator=torch.Generator().manual_seed(seed))


def latents_of(
    policy: Policy,
    plan: Plan,
    *,
    prompt_embeds: Tensor | None = None,
    samples: Sequence[int] = (0,),
    seed: int = 0,
    prefix: Tensor | None = None,
    transformer: Any = TRANSFORMER,
    keep_rotated: bool = True,
    watch: Callable[[Session], None] = lambda session: None,
    told: Observer | None = None,
) -> Tensor:
    """Roll out and return all latents `[B, C, F, h, w]`; `watch` is called after every chunk.

    `told` observes the banks.
    """
    if prompt_embeds is None:
        prompt_embeds = prompt().expand(len(samples), -1, -1)
    made = []
    with (
        torch.no_grad(),
        attach(
            transformer, policy, chunk_size=plan.chunk_size, keep_rotated=keep_rotated
        ) as session,
    ):
        for bank in session.caches():
            bank.observer = told
        for latents in Rollout(
            transformer,
            session,
            plan,
            STEPS,
            CounterNoise(seed, samples),
            prompt_embeds,
            latent_size=LATENT_SIZE,
            prefix=prefix,
        ):
            made.append(latents)
            watch(session)
    return torch.cat(made, dim=2)


def naive_latents(
    plan: Plan, kind: str, *, prefix: Tensor | None = None, seed: int = 0, **options: Any
) -> Tensor:
    """The same rollout of one sample through the naive oracle."""
    with torch.no_grad(), naive_attach(TRANSFORMER, kind, **options) as session:
        chunks = Rollout(
            TRANSFORMER,
            session,
            plan,
            STEPS,
            CounterNoise(seed),
            prompt(),
            latent_size=LATENT_SIZE,
            prefix=prefix,
        )
        return torch.cat(list(chunks), dim=2)
