"""What stands in for parts of diffusers' Wan transformer while a session is attached to it.

Axes: B samples, L tokens, C channels, H heads, D channels a head.

All state is the session's. Where blocks are compiled one by one, the session is called outside of
the compiled code: it differs by layer and by chunk, and the code then serves all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

if TYPE_CHECKING:
    from tethercache.backbones.wan import Session


class OncePerPrompt(nn.Module):
    """Stands in for the text MLP, whose result is the same in every pass."""

    def __init__(self, session: Session, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self._session = session

    def forward(self, prompt_embeds: Tensor) -> Tensor:
        """The text MLP's output, from memory where it is known."""
        return self._session.projected_text(self.embedder, prompt_embeds)


class UnlessDiscarded(nn.Module):
    """Stands in for a module behind the last commit, whose result a pass may not need.

    Args:
        session: knows whether it is needed.
        module: what to run then.
        channels: of the result, which else is NaN, so that nobody takes it for one; None: the input
            is handed on as it is.
    """

    def __init__(self, session: Session, module: nn.Module, channels: int | None = None) -> None:
        super().__init__()
        self.module = module
        self.channels = channels
        self._session = session

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, L, C]` through the module, if its result is needed."""
        if not self._session.discarding:
            result: Tensor = self.module(x)
            return result
        return x if self.channels is None else x.new_full((*x.shape[:-1], self.channels), torch.nan)


class Processor:
    """What both processors share.

    Args:
        session: holds the caches.
        layer: number of the block.
        replaced: the processor whose place it takes; the attention backend is the one that
            `set_attention_backend` gave to it, unless another one is named.
        backend: attention backend of diffusers' dispatcher.
    """

    def __init__(
        self, session: Session, layer: int, replaced: Any, backend: str | None = None
    ) -> None:
        self.session = session
        self.layer = layer
        chosen = backend or getattr(replaced, "_attention_backend", None)
        self._attention_backend = chosen and AttentionBackendName(chosen)
        self._parallel_config = getattr(replaced, "_parallel_config", None)


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
        output = self.attend(query, key, value)
        return hidden_states if output is None else _project_out(attn, output)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
        """See `Session.self_attention`."""
        return self.session.self_attention(self.layer, query, key, value, self._attention_backend)


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
        known = self.text(attn, encoder_hidden_states)
        if known is None:
            return hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(-1, (attn.heads, -1))
        output = dispatch_attention_fn(query, *known, backend=self._attention_backend)
        return _project_out(attn, output)

    def text(self, attn: Any, prompt: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and values `[B, L_text, H, D]` of the prompt; None if the result is not needed."""
        if self.session.discards(self.layer):
            return None
        text = self.session.text
        known = text[self.layer]
        if known is None:
            if attn.fused_projections:
                key, value = attn.to_kv(prompt).chunk(2, dim=-1)
            else:
                key, value = attn.to_k(prompt), attn.to_v(prompt)
            known = text[self.layer] = (
                attn.norm_k(key).unflatten(-1, (attn.heads, -1)),
                value.unflatten(-1, (attn.heads, -1)),
            )
        return known


class OutsideSelfAttention(SelfAttention):
    """For compiled blocks: the cache stays outside."""

    attend = torch.compiler.disable(SelfAttention.attend)


class OutsideTextAttention(TextAttention):
    """For compiled blocks: the session's memory of the prompt stays outside."""

    text = torch.compiler.disable(TextAttention.text)


def _project_out(attn: Any, output: Tensor) -> Tensor:
    projection, dropout = attn.to_out
    projected: Tensor = dropout(projection(output.flatten(2, 3)))
    return projected
