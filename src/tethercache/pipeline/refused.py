"""What other pipelines of diffusers take: refused by name, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tethercache.models import Settings
from tethercache.registry import nearest

_DISTILLED = "the model is distilled: what guidance did is part of its weights"
_STEPS = "the model is distilled to the noise levels `sigmas` of its configuration"
_LENGTH = "it is part of the model, see its configuration"
_PICTURES = "the model is told what to make by text; a clip to start from is `prefix_latents`"
_PROCESSORS = "attention is the policy's, and the scale of an adapter is set by `set_adapters`"
_CALLBACK = "it is `callback_on_step_end` now"

REASONS: Mapping[str, str] = {
    **dict.fromkeys(("guidance_scale", "guidance_scale_2", "true_cfg_scale"), _DISTILLED),
    **dict.fromkeys(("guidance_rescale", "negative_prompt", "negative_prompt_embeds"), _DISTILLED),
    **dict.fromkeys(("num_inference_steps", "timesteps", "sigmas", "eta", "strength"), _STEPS),
    "max_sequence_length": _LENGTH,
    "frame_rate": f"{_LENGTH} (`fps`)",
    "fps": _LENGTH,
    **dict.fromkeys(("image", "last_image", "image_embeds", "video", "conditions"), _PICTURES),
    **dict.fromkeys(("attention_kwargs", "cross_attention_kwargs"), _PROCESSORS),
    "joint_attention_kwargs": _PROCESSORS,
    **dict.fromkeys(("callback", "callback_steps"), _CALLBACK),
    "latents": "noise is made chunk by chunk, of `seed` or `generator`; a clip to start from is "
    '`prefix_latents`, and latents are returned for `output_type="latent"`',
    "num_images_per_prompt": "it is `num_videos_per_prompt` here",
    "clip_skip": "the text encoder is read at its last layer, as the model was trained",
}
"""Why an argument is not taken."""


def refuse(given: Mapping[str, Any], settings: Settings, known: Iterable[str]) -> None:
    """Refuse arguments that are left over, unless they ask for what is done anyway.

    Args:
        given: arguments by name. None counts as not given, as in diffusers.
        settings: how the model is used. A number of steps that is its own is taken, and so are
            `guidance_scale=1` and an empty `negative_prompt`, which mean no guidance.
        known: the arguments that are taken, for the message.

    Raises:
        TypeError: for a name that nobody knows.
        ValueError: naming the argument and the reason.
    """
    done = {
        "guidance_scale": 1,
        "negative_prompt": "",
        "num_inference_steps": len(settings.sigmas),
        "sigmas": list(settings.sigmas),
        "max_sequence_length": settings.max_sequence_length,
        "fps": settings.fps,
        "frame_rate": settings.fps,
    }
    for name, value in given.items():
        if name not in REASONS:
            raise TypeError(f"unexpected argument `{name}`{nearest(name, known)}")
        if value is None or _same(value, done.get(name)):
            continue
        raise ValueError(f"`{name}` is not taken: {REASONS[name]}")


def _same(value: Any, done: Any) -> bool:
    """Whether a value is that which is used anyway; tensors and arrays are not."""
    return type(value) in (int, float, str, list) and done is not None and bool(value == done)
