"""A stand-in for what the nodes use of ComfyUI, written from its behaviour.

A MODEL is a patcher around a base model around a transformer; wrappers hang on it by kind and name.
A guider samples with a sampler, through the wrappers `sampler_sample`; every call of the base model
goes through the wrappers `apply_model` that it finds in the options it is handed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.backbones import original


class CausalWan(original.Model):
    """Its keys and values are in dictionaries, as large as the whole video."""

    allotted = 0

    def init_kv_caches(self, batch: int, tokens: int, device: Any, dtype: Any) -> list[Any]:
        self.allotted += tokens
        attention = self.blocks[0].self_attn
        sizes = (batch, tokens, attention.num_heads, attention.head_dim)
        return [
            {
                "k": torch.zeros(sizes, dtype=dtype),
                "v": torch.zeros(sizes, dtype=dtype),
                "end": torch.zeros(1, dtype=torch.long),
                "global_end_index": torch.zeros(1, dtype=torch.long),
            }
            for _ in self.blocks
        ]

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, options: Any) -> Tensor:
        state = options["ar_state"]
        return super().forward(
            x,
            timestep[:, None].expand(x.shape[0], x.shape[2]),
            context,
            kv_cache=state["kv_caches"],
            crossattn_cache=state["crossattn_caches"],
            current_start=state["start_frame"] * frame_tokens(x),
        )


def frame_tokens(x: Tensor) -> int:
    return -(-x.shape[3] // 2) * -(-x.shape[4] // 2)


class Executor:
    """Calls the next of several wrappers, and at last what they stand around."""

    def __init__(self, function: Callable[..., Any], owner: Any, wrappers: Iterable[Any]) -> None:
        self._function, self.class_obj, self._wrappers = function, owner, list(wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._wrappers:
            return self._function(*args, **kwargs)
        first, *others = self._wrappers
        return first(Executor(self._function, self.class_obj, others), *args, **kwargs)


def hung(options: Any, kind: str) -> list[Any]:
    named = options.get("wrappers", {}).get(kind, {})
    return [wrapper for wrappers in named.values() for wrapper in wrappers]


class BaseModel:
    def __init__(self, transformer: Any) -> None:
        self.diffusion_model = transformer
        self.model_sampling = SimpleNamespace(timestep=lambda sigma: sigma * 1000)

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor, options: Any) -> Tensor:
        def apply(x: Tensor, t: Tensor, concat: Any, text: Tensor, control: Any, to: Any) -> Tensor:
            flow = self.diffusion_model(x, self.model_sampling.timestep(t), text, to)
            return x - t.view(-1, 1, 1, 1, 1) * flow

        executor = Executor(apply, self, hung(options, "apply_model"))
        return executor(x, sigma, None, c_crossattn, None, options)


class Patcher:
    """A MODEL."""

    def __init__(self, model: BaseModel) -> None:
        self.model, self.wrappers = model, {}

    def clone(self) -> Patcher:
        other = Patcher(self.model)
        other.wrappers = copy.deepcopy(self.wrappers)
        return other

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)


def sample_ar_video(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Any,
    callback: Callable[[], None],
    num_frame_per_block: int = 1,
) -> Tensor:
    """Chunk after chunk: denoise it with fresh noise between the steps, then read it clean."""
    options = extra_args["model_options"]["transformer_options"]
    transformer = model.inner_model.diffusion_model
    whole = x.shape[2] * frame_tokens(x)
    caches = transformer.init_kv_caches(len(x), whole, x.device, x.dtype)
    texts = [{"is_init": False} for _ in caches]
    made: list[Tensor] = []
    start, ones = 0, x.new_ones(len(x))

    def call(chunk: Tensor, sigma: Any) -> Tensor:
        named = {"kv_caches": caches, "crossattn_caches": texts}
        options["ar_state"] = {"start_frame": start, **named}
        denoised = model(chunk, sigma * ones, **extra_args)
        for cache in caches:
            cache["end"] -= chunk.shape[2] * frame_tokens(x)
        return denoised

    prefix = options.get("ar_config", {}).get("initial_latent")
    if prefix is not None:
        call(prefix, 0 * sigmas[0])
        made.append(prefix)
        start = prefix.shape[2]
    while start < x.shape[2]:
        chunk = x[:, :, start : start + num_frame_per_block]
        for step, sigma in enumerate(sigmas[:-1]):
            denoised = call(chunk, sigma)
            callback()
            if (lower := sigmas[step + 1]) > 0:
                torch.manual_seed(extra_args["seed"] + 1000 * start + step)
                chunk = (1 - lower) * denoised + lower * torch.randn_like(denoised)
            else:
                chunk = denoised
        call(chunk, 0 * sigmas[0])
        made.append(chunk)
        start += chunk.shape[2]
    options.pop("ar_state")
    return torch.cat(made, dim=2)


def sample_euler(*args: Any, **kwargs: Any) -> Tensor:
    raise AssertionError("never called")


class Sampler:
    def __init__(self, function: Any = sample_ar_video, chunk: int = 3) -> None:
        self.sampler_function = function
        self.extra_options = {"num_frame_per_block": chunk}

    def sample(
        self, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor
    ) -> Tensor:
        latents: Tensor = self.sampler_function(
            guider, noise, sigmas, extra_args, callback, **self.extra_options
        )
        return latents


class Guider:
    def __init__(self, model: Patcher, text: Tensor, *, cfg: float = 1.0) -> None:
        self.model, self.inner_model = model, model.model
        self.text, self.cfg = text, cfg
        self.conditions = [0]

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any, seed: int) -> Tensor:
        options = model_options["transformer_options"] | {"cond_or_uncond": self.conditions}
        return self.inner_model.apply_model(x, sigma, self.text, options)

    @torch.inference_mode()
    def sample(
        self,
        noise: Tensor,
        sigmas: Tensor,
        sampler: Sampler,
        *,
        prefix: Tensor | None = None,
        callback: Callable[[], None] = lambda: None,
    ) -> Tensor:
        options: dict[str, Any] = {"wrappers": copy.deepcopy(self.model.wrappers)}
        if prefix is not None:
            options["ar_config"] = {"initial_latent": prefix}
        extra_args = {"model_options": {"transformer_options": options}, "seed": 7}
        executor = Executor(sampler.sample, sampler, hung(options, "sampler_sample"))
        latents: Tensor = executor(self, sigmas, extra_args, callback, noise)
        assert hung(options, "apply_model") == []
        return latents
