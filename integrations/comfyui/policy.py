"""Node "TetherCache policy": what a causal Wan model remembers in ComfyUI's own sampler.

Axes: B samples, C latent channels, F latent frames, L = F x T tokens.

ComfyUI's autoregressive sampler (node "Sampler AR Video") makes chunk after chunk; the keys and
values of all that came before wait in dictionaries that grow with the video, and every chunk sees
everything. Here a cache policy decides what stays and what is seen.

The seam is ComfyUI's own. The node clones the MODEL and hangs one wrapper around its sampling. The
wrapper keeps stand-ins in the transformer for as long as the sampling lasts: the self-attentions go
through a `PipelineSession`, and the sampler is given caches without memory. It also declares each
call of the model to the session. When the sampling ends, or breaks off, everything is as it was;
the MODEL that went into the node is never touched.

    MODEL ── clone ── sampler_sample ──> stand-ins in, session begins
                           └── apply_model ──> which chunk, which pass
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from tethercache.backbones.patching import override
from tethercache.backbones.pipeline_session import Generator, PipelineSession
from tethercache.backbones.projections import project, project_out, renamed
from tethercache.cache import Policy
from tethercache.cache.call import current_call
from tethercache.policies import as_policy

from .words import problem

NAME = "tethercache"
"""Of our wrappers, by which ComfyUI tells them from those of others."""


class TetherCachePolicy:
    """Let a cache policy decide what a causal Wan model remembers."""

    CATEGORY = "TetherCache"
    DESCRIPTION = (
        "Lets a TetherCache policy decide what a causal Wan model remembers while ComfyUI's own "
        "autoregressive sampler (Sampler AR Video) makes a video. Memory for keys and values no "
        "longer grows with the length."
    )
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model, and the spec of a policy."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A causal Wan model. It is not changed itself."}),
                "policy": ("STRING", {"default": "tethercache", "tooltip": POLICY_TOOLTIP}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, policy: str | None = None) -> str | Literal[True]:
        """What is wrong with the spec, before anything runs."""
        return True if policy is None else problem(as_policy, policy=policy)

    def patch(self, model: Any, policy: str) -> tuple[Any]:
        """A clone of the model that remembers what the policy says.

        Raises:
            ValueError: if the model is no causal Wan, or the spec is none.
        """
        chosen = as_policy(policy)
        check_model(model.get_model_object("diffusion_model"))
        patched = model.clone()
        patched.remove_wrappers_with_key("sampler_sample", NAME)
        patched.add_wrapper_with_key("sampler_sample", NAME, remembering(chosen))
        return (patched,)


POLICY_TOOLTIP = (
    "What is remembered: the name of a policy, with settings if need be, such as "
    "tethercache:alpha=0.2,tau=0.5, sink, fifo:window=12, memflow. `tethercache policies` lists "
    "them."
)


def check_model(transformer: Any) -> None:
    """Refuse what is not ComfyUI's causal Wan.

    Raises:
        ValueError: saying what it is, and what it has to be.
    """
    blocks: Any = getattr(transformer, "blocks", ())
    causal = hasattr(transformer, "init_kv_caches") and hasattr(transformer, "patch_size")
    if not (causal and len(blocks) and hasattr(blocks[0].self_attn, "norm_k")):
        raise ValueError(
            f"`model` must be a causal Wan (ComfyUI's CausalWanModel), not a "
            f"{type(transformer).__name__}. ComfyUI makes one of a checkpoint whose metadata says "
            "`causal_ar`; the README of these nodes says how to write that into a file"
        )
    if transformer.patch_size[0] != 1:
        raise ValueError(f"the temporal patch size must be 1, not {transformer.patch_size[0]}")


def remembering(policy: Policy) -> Callable[..., Any]:
    """The wrapper around ComfyUI's sampling, see `patcher_extension.WrappersMP`."""

    def sampling(
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *rest: Any,
        **more: Any,
    ) -> Any:
        options = extra_args["model_options"].setdefault("transformer_options", {})
        chunk_size = _chunk_size(executor.class_obj)
        _check_run(guider, sigmas)
        _check_length(policy, noise.shape[2], chunk_size, _prefix(options))
        transformer = guider.inner_model.diffusion_model
        steps = SimpleNamespace(denoising_step_list=sigmas[:-1].tolist())
        generator = Generator(transformer, transformer)
        session = PipelineSession(steps, generator, policy, chunk_size)
        calls = options.setdefault("wrappers", {}).setdefault("apply_model", {})
        calls[NAME] = [declaring(session)]
        try:
            with installed(transformer):
                return executor(guider, sigmas, extra_args, callback, noise, *rest, **more)
        finally:
            del calls[NAME]

    return sampling


def _chunk_size(sampler: Any) -> int:
    """How many latent frames the autoregressive sampler makes at once."""
    function = getattr(sampler, "sampler_function", None)
    if getattr(function, "__name__", "") != "sample_ar_video":
        name = getattr(function, "__name__", type(sampler).__name__)
        raise ValueError(
            f"a TetherCache policy needs ComfyUI's autoregressive sampler (node Sampler AR Video), "
            f"which makes chunk after chunk; `{name}` makes all frames at once and has nothing to "
            "remember"
        )
    size: int = sampler.extra_options.get("num_frame_per_block", 1)
    return size


def _check_run(guider: Any, sigmas: Tensor) -> None:
    """Refuse what ComfyUI's sampler would compute wrongly, with or without a policy."""
    if (cfg := getattr(guider, "cfg", 1.0)) != 1:
        raise ValueError(
            f"`cfg` ({cfg:g}) must be 1: the autoregressive sampler keeps one memory, not two as "
            "classifier-free guidance needs; causal Wan models are distilled and need none"
        )
    if sigmas[-1] != 0:
        raise ValueError(
            f"the last sigma ({sigmas[-1]:g}) must be 0: a chunk has to be clean before the next "
            "one begins, so sigmas cannot be split between two samplers"
        )


def _prefix(options: Mapping[str, Any]) -> int:
    """Latent frames of the picture that the video starts with (node AR Video I2V); 0: none."""
    latent = options.get("ar_config", {}).get("initial_latent")
    return 0 if latent is None else int(latent.shape[2])


def _check_length(policy: Policy, frames: int, chunk_size: int, prefix: int) -> None:
    """Refuse a video that the policy cannot serve, before its first chunk is made.

    Raises:
        ValueError: naming the sizes that do not fit together.
    """
    made = 0
    while made < frames:
        chunk = prefix if prefix and not made else min(chunk_size, frames - made)
        policy.check_chunk(made, chunk)
        made += chunk


@contextmanager
def installed(transformer: Any) -> Iterator[None]:
    """Let self-attentions go through the cache inside the `with` block, and no memory be taken."""

    def empty(batch: int, *sizes: Any, **more: Any) -> list[dict[str, Tensor]]:
        return [{"end": torch.zeros(1, dtype=torch.long)} for _ in transformer.blocks]

    with ExitStack() as undo:
        override(undo, transformer, "init_kv_caches", empty)
        for layer, block in enumerate(transformer.blocks):
            override(undo, block.self_attn, "forward", _forward(layer, block.self_attn))
        yield


def _forward(layer: int, attention: Any) -> Callable[..., Tensor]:
    """What stands in for a self-attention; ComfyUI's rotations and caches are not read."""
    attn = renamed(attention)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        query, key, value = project(attn, x)
        output = current_call().attend(layer, query, key, value.type_as(query))
        assert output is not None  # context passes are run whole
        return project_out(attn, output)

    return forward


def declaring(session: PipelineSession) -> Callable[..., Any]:
    """The wrapper around ComfyUI's model calls: tells the session what each of them is."""

    def call(
        executor: Any,
        x: Tensor,
        sigma: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **conds: Any,
    ) -> Any:
        options = {} if transformer_options is None else transformer_options
        if len(conditions := options.get("cond_or_uncond", [0])) != 1 or conditions[0] != 0:
            raise ValueError(
                "the autoregressive sampler keeps one memory, so there can be one conditioning; "
                "this sampling has several, or areas or times of its own"
            )
        model = executor.class_obj
        latents = _whole_patches(x, model.diffusion_model.patch_size).transpose(1, 2)
        level = model.model_sampling.timestep(sigma)[:, None].expand(latents.shape[:2])
        with session.call(latents, level, options["ar_state"]["start_frame"]):
            return executor(x, sigma, c_concat, c_crossattn, control, transformer_options, **conds)

    return call


def _whole_patches(x: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Latents `[B, C, F, h, w]` of the size to which ComfyUI pads them; only sizes are read."""
    _, rows, columns = patch_size
    *lead, height, width = x.shape
    size = (*lead, -(-height // rows) * rows, -(-width // columns) * columns)
    return x if x.shape == size else x.new_empty(1).expand(size)
