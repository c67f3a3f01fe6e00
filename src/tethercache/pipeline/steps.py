"""The end of a denoising step, as callers of diffusers know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from tethercache.arguments import float_tensor
from tethercache.rollout import Action, Rollout

TENSORS = ("latents", "prompt_embeds")
"""What a callback may ask for."""

Callback = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
"""`callback_on_step_end` of diffusers: pipeline, step, timestep and the tensors asked for."""


class StepEnd:
    """Calls a callback of diffusers after each denoising step of a rollout.

    Steps are counted through the video. `latents` are those of the chunk in the making,
    `[B, C, F, h, w]`, at the noise level of the next step; those that come back take their place.
    Other `prompt_embeds` that come back hold from the next chunk on.

    Args:
        pipe: the pipeline, handed to the callback.
        callback: what is called.
        names: the tensors it asks for. A `PipelineCallback` says so itself.

    Raises:
        ValueError: if the callback cannot be called, or asks for other tensors.
    """

    def __init__(self, pipe: Any, callback: Callback, names: Sequence[str]) -> None:
        if not callable(callback):
            raise ValueError(f"`callback_on_step_end` ({callback!r}) must be a function")
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        if strange := [name for name in names if name not in TENSORS]:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` ({', '.join(map(str, strange))}) must be of "
                f"{' and '.join(TENSORS)}"
            )
        self._pipe = pipe
        self._callback = callback
        self._names = tuple(names)

    def __call__(self, rollout: Rollout, step: int, timestep: float, latents: Tensor) -> Tensor:
        """See `Rollout`."""
        plan, made = rollout.plan, rollout.chunks_made
        passed = self._pipe.settings.steps(made - plan.first_generated) + step
        known = {"latents": latents, "prompt_embeds": rollout.prompt_embeds}
        told = {name: known[name] for name in self._names}
        back = self._callback(self._pipe, passed, timestep, told) or {}
        prompt = rollout.prompt_embeds
        embeds = back.get("prompt_embeds", prompt)
        if embeds is not prompt:
            float_tensor("prompt_embeds", embeds, (len(prompt), "L", prompt.shape[2]))
            rollout.act(made + 1, Action(embeds.to(prompt)))
        changed = back.get("latents", latents)
        if changed is not latents:
            changed = float_tensor("latents", changed, tuple(latents.shape)).to(latents)
        return changed
