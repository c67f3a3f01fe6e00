"""What stands in for parts of diffusers' Wan transformer while sessions are attached to it.

Axes: B samples, C latent channels, F latent frames, L = F x T tokens, H heads, D channels a head.

`install` swaps the attention processors of every block for ones that go through a cache, and lets a
few calls happen once a prompt, or not at all where nobody needs the result. Nothing here has a
state or knows a session: each stand-in knows its place in the model and asks for the call in
progress (`cache/call.py`), so that it serves every session. Code that `torch.compile` makes goes
through the operators of `opaque.py` instead, which keep the text too; it is projected in every pass
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from tethercache.backbones import opaque
from tethercache.backbones.parallel import parallel_config
from tethercache.backbones.patching import Patches, override
from tethercache.backbones.projections import (
    project,
    project_out,
    project_queries,
    project_seen,
)
from tethercache.cache import Rope
from tethercache.cache.call import begin_call, current_call, finish_call
from tethercache.cache.heads import Heads, SharedHeads

Compute = Callable[..., Any]
"""How a module computes its result."""


def once_per_prompt(compute: Compute) -> Compute:
    """Stands in for a call of the text MLP, whose result is the same in every pass."""

    def call(prompt_embeds: Tensor) -> Tensor:
        return current_call().projected_text(compute, prompt_embeds)

    return call


def unless_discarded(compute: Compute, channels: int | None = None) -> Compute:
    """Stands in for a call of a module behind the last commit, whose result may not be needed.

    Args:
        compute: how the module computes it.
        channels: of the result, which else is NaN, so that nobody takes it for one; None: the input
            is handed on as it is.
    """

    def call(x: Tensor) -> Any:
        if not current_call().discarding:
            return compute(x)
        return x if channels is None else x.new_full((*x.shape[:-1], channels), torch.nan)

    return call


def if_compiled(compute: Compute, compiled: Compute) -> Compute:
    """Stands in for a call of a block: compiled for the sessions that ask for it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if current_call().compiled else compute)(*args, **kwargs)

    return call


class Processor:
    """What both processors share.

    Args:
        layer: number of the block.
        replaced: the processor whose place it takes. `set_attention_backend` reaches it as ever.
    """

    def __init__(self, layer: int, replaced: Any) -> None:
        self.layer = layer
        self.replaced = replaced
        # compiled code serves all blocks only if their numbers are no constants of it
        self.number = torch.tensor(layer)

    @property
    def _attention_backend(self) -> Any:
        return getattr(self.replaced, "_attention_backend", None)

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.replaced._attention_backend = backend


class SelfAttention(Processor):
    """Self-attention of a chunk through the layer's cache."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: object = None,
    ) -> Tensor:
        """The chunk's tokens `[B, L, C]`, mixed with what the cache shows."""
        query, key, value = project(attn, hidden_states)
        backend = self._attention_backend
        if torch.compiler.is_compiling():
            return project_out(attn, opaque.attend(query, key, value, self.number, backend))
        output = current_call().attend(self.layer, query, key, value, backend)
        return hidden_states if output is None else project_out(attn, output)


class TextAttention(Processor):
    """Cross-attention whose keys and values are computed once a prompt."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: object = None,
    ) -> Tensor:
        """The chunk's tokens `[B, L, C]`, told what the prompt `[B, L_text, C]` says."""
        compiling, backend = torch.compiler.is_compiling(), self._attention_backend
        if not compiling and current_call().discards(self.layer):
            return hidden_states
        query = project_queries(attn, hidden_states)
        if compiling:
            seen = project_seen(attn, encoder_hidden_states)
            return project_out(attn, opaque.attend_text(query, *seen, self.number, backend))
        call = current_call()
        known = call.text(self.layer, lambda: project_seen(attn, encoder_hidden_states))
        output = dispatch_attention_fn(query, *known, backend=call.backend or backend)
        return project_out(attn, output)


@dataclass(frozen=True)
class Wan:
    """What a session has to know of a transformer, see `cache.backbone.Backbone`."""

    transformer: WanTransformer3DModel

    @property
    def place(self) -> int:
        """A number that no other model has."""
        return id(self.transformer)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.transformer.blocks)

    @property
    def heads(self) -> Heads:
        """All, or this process's share where diffusers' context parallelism is on (Ulysses)."""
        config = parallel_config(self.transformer)
        if config is None:
            return Heads()
        return SharedHeads(config._ulysses_mesh.get_group())

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        """The rotary embedding for latent frames of a size."""
        config = self.transformer.config
        _, rows, columns = config.patch_size
        return Rope(config.attention_head_dim, height // rows, width // columns, device=device)

    def frame(self, height: int, width: int) -> tuple[int, int, int]:
        """Tokens, heads and channels a head of a latent frame of a size."""
        config = self.transformer.config
        _, rows, columns = config.patch_size
        tokens = (height // rows) * (width // columns)
        return tokens, config.num_attention_heads, config.attention_head_dim

    def can_stop_early(self) -> bool:
        """Whether what is behind the last block's commit may be left out."""
        return not _hooked(self.transformer)

    def attached(self, compiled: bool) -> AbstractContextManager[None]:
        """Keep the stand-ins in the transformer inside a `with` block."""
        stand_ins = (install, install_compiled) if compiled else (install,)
        return _patches.used(self.transformer, *stand_ins)


_patches = Patches()


def _hooked(transformer: WanTransformer3DModel) -> bool:
    """Whether what is behind the last commit carries hooks of accelerate or diffusers.

    Some of them fetch the weights of the module that is due next, so none may be left out.
    """
    tail = (*transformer.blocks[-1].children(), transformer.proj_out)
    hooks = {"_hf_hook", "_diffusers_hook"}
    return any(not hooks.isdisjoint(vars(module)) for part in tail for module in part.modules())


def install(transformer: WanTransformer3DModel, undo: ExitStack) -> None:
    """Put the stand-ins into a transformer."""
    place = id(transformer)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        latents = args[0] if args else kwargs["hidden_states"]
        prompt = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        if not torch.compiler.is_compiling():
            begin_call(place, latents, prompt)
            return None
        latents = opaque.begin(latents, prompt, place)
        if args:
            return (latents, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": latents}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not torch.compiler.is_compiling():
            finish_call()
            return None
        flow = opaque.finish(output[0])
        return (flow,) if isinstance(output, tuple) else type(output)(sample=flow)

    undo.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
    undo.callback(transformer.register_forward_hook(after).remove)
    for layer, block in enumerate(transformer.blocks):
        for at, kind in ((block.attn1, SelfAttention), (block.attn2, TextAttention)):
            override(undo, at, "processor", kind(layer, at.processor))
    head = transformer.proj_out
    _override_call(undo, transformer.condition_embedder.text_embedder, once_per_prompt)
    _override_call(undo, transformer.blocks[-1].ffn, unless_discarded)
    _override_call(undo, head, partial(unless_discarded, channels=head.out_features))


def install_compiled(transformer: WanTransformer3DModel, undo: ExitStack) -> None:
    """Compile the blocks for the sessions that ask for it."""
    for block in transformer.blocks:
        compute = _compute(block)
        override(undo, block, "_compiled_call_impl", None)
        # chunks come in one or two sizes, each worth code of its own
        block.compile(dynamic=False)
        block._compiled_call_impl = if_compiled(compute, block._compiled_call_impl)


def _override_call(
    undo: ExitStack, module: nn.Module, stand_in: Callable[[Compute], Compute]
) -> None:
    """Let a module be called through a stand-in; its name and its hooks stay what they are."""
    override(undo, module, "_compiled_call_impl", stand_in(_compute(module)))


def _compute(module: nn.Module) -> Compute:
    """How a module is called, by code that the user has compiled if there is such."""
    return module._compiled_call_impl or module._call_impl


@contextmanager
def float64_sinusoid(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Compute the sinusoid of the timestep in float64, as the official code does.

    diffusers uses float32, which differs by up to 4.1e-5 (`docs/reference.md`, section 11). Use
    this where outputs are compared with the official ones.
    """
    half = transformer.config.freq_dim // 2

    def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        exponents = torch.arange(half, dtype=torch.float64, device=output.device) / half
        angles = args[0].double()[:, None] * torch.exp(-math.log(10000) * exponents)
        return torch.cat((angles.cos(), angles.sin()), dim=1).to(output.dtype)

    hook = transformer.condition_embedder.timesteps_proj.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
