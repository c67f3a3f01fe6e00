"""What stands in for parts of diffusers' Wan transformer while sessions are attached to it.

Axes: B samples, L tokens, C channels, H heads, D channels a head.

Nothing here has a state: each stand-in knows its place in the model and asks for the call in
progress, so that it serves every session. Code that `torch.compile` makes goes through the
operators of `opaque.py` instead, which keep the text too; it is projected in every pass there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from tethercache.backbones import opaque
from tethercache.cache.call import current_call

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
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key, value = (
                project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v)
            )
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)) for x in (attn.norm_q(query), attn.norm_k(key), value)
        )
        backend = self._attention_backend
        if torch.compiler.is_compiling():
            return _project_out(attn, opaque.attend(query, key, value, self.number, backend))
        output = current_call().attend(self.layer, query, key, value, backend)
        return hidden_states if output is None else _project_out(attn, output)


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
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        if compiling:
            text = _text(attn, encoder_hidden_states)
            output = opaque.attend_text(query, *text, self.number, backend)
        else:
            call = current_call()
            known = call.text(self.layer, lambda: _text(attn, encoder_hidden_states))
            output = dispatch_attention_fn(query, *known, backend=call.backend or backend)
        return _project_out(attn, output)


def _text(attn: Any, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[B, L_text, H, D]` of the projected prompt."""
    if attn.fused_projections:
        key, value = attn.to_kv(prompt).chunk(2, dim=-1)
    else:
        key, value = attn.to_k(prompt), attn.to_v(prompt)
    return attn.norm_k(key).unflatten(-1, (attn.heads, -1)), value.unflatten(-1, (attn.heads, -1))


def _project_out(attn: Any, output: Tensor) -> Tensor:
    projection, dropout = attn.to_out
    projected: Tensor = dropout(projection(output.flatten(2, 3)))
    return projected
