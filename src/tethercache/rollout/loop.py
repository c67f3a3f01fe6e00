"""The chunk loop: noise in, clean latent chunks out, one at a time, for as long as the plan says.

Axes: latents `[B, C, F, h, w]`. No tensor here depends on the length of the video.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tethercache.errors import NotFiniteError
from tethercache.rollout.noise import NoiseSource
from tethercache.rollout.plan import Plan
from tethercache.rollout.sampler import Steps, denoise
from tethercache.session import Session


def rollout(
    transformer: Any,
    session: Session,
    plan: Plan,
    steps: Steps,
    noise: NoiseSource,
    prompt_embeds: Tensor,
    *,
    latent_size: tuple[int, int],
    context_noise: float = 0.0,
    prefix: Tensor | None = None,
) -> Iterator[Tensor]:
    """Generate the chunks of one batch of videos.

    Every chunk takes `len(steps)` denoising passes and one context pass, which is told the timestep
    `context_noise` and sees clean latents. Chunks of the prefix take a context pass at timestep 0.

    Args:
        transformer: the model to which `session` is attached.
        session: decides, by its policy, what the model remembers.
        plan: the chunks.
        steps: the noise levels of the few-step sampler.
        noise: where noise comes from.
        prompt_embeds: text embeddings `[B, L_text, C_text]`.
        latent_size: height and width of a latent frame.
        context_noise: timestep that the context pass is told, 0..1000.
        prefix: clean latents `[B, C, plan.prefix, h, w]` to start from.

    Yields:
        Clean latents `[B, C, F, h, w]` of each chunk, those of the prefix included.

    Raises:
        NotFiniteError: if the transformer makes NaN or infinity; the chunk is not yielded.
    """
    if plan.prefix != (0 if prefix is None else prefix.shape[2]):
        raise ValueError(f"the plan has a prefix of {plan.prefix} latent frames, not the one given")
    batch, device, dtype = prompt_embeds.shape[0], prompt_embeds.device, prompt_embeds.dtype
    if prefix is not None and not prefix.to(dtype).isfinite().all():
        raise ValueError(f"`prefix` must be finite in {dtype}, but holds NaN or infinity")
    channels = transformer.config.in_channels

    def call(latents: Tensor, timestep: float) -> Tensor:
        told = torch.full((batch,), timestep, device=device, dtype=torch.float32)
        flow: Tensor = transformer(latents, told, prompt_embeds, return_dict=False)[0]
        return flow

    def predict_flow(latents: Tensor, timestep: float) -> Tensor:
        with session.denoising_pass():
            flows.append(call(latents, timestep))
        return flows[-1]

    for number, chunk in enumerate(plan, 1):
        flows: list[Tensor] = []
        shape = (channels, chunk.frames, *latent_size)
        with session.chunk(chunk.frames, None if chunk.generated is None else len(steps)):
            if chunk.generated is None:
                assert prefix is not None
                latents = prefix[:, :, chunk.start : chunk.start + chunk.frames].to(device, dtype)
                committed_at = 0.0
            else:
                generated = chunk.generated

                def draw(i: int, chunk: int = generated, shape: tuple[int, ...] = shape) -> Tensor:
                    return noise(chunk, i, shape).to(device, dtype)

                latents = denoise(predict_flow, draw, steps)
                committed_at = context_noise
            finite = latents.isfinite().all()
            with session.context_pass(output=False):
                call(latents, committed_at)
        if not finite:  # asked last, so that a device has the context pass to do meanwhile
            raise _not_finite(number, flows)
        yield latents


def _not_finite(chunk: int, flows: list[Tensor]) -> NotFiniteError:
    """Say in which pass of a chunk the numbers went wrong."""
    wrong = next((i for i, flow in enumerate(flows, 1) if not flow.isfinite().all()), len(flows))
    where = f"chunk {chunk}, denoising pass {wrong} of {len(flows)}"
    return NotFiniteError("transformer", where, flows[0].dtype)
