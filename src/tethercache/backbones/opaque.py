"""Operators through which compiled code reaches the session that is at work.

`torch.compile` sees a name and shapes, never what is behind: no state of a session becomes a
constant or a guard of the code, so that one code serves every layer, pass, chunk and session. Each
operator hands on a tensor that the next one needs, which keeps them in order.

Axes: B samples, L tokens, H heads, D channels a head; latents `[B, C, F, h, w]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from tethercache.cache.call import begin_call, current_call, finish_call


def _operator(like_first: Callable[..., Tensor]) -> Any:
    """Register a function whose result has the shape of its first argument."""
    # what it does depends on the session, so no CUDA graph may record it
    tags = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []
    operator = torch.library.custom_op(
        f"tethercache::{like_first.__name__}", like_first, mutates_args=(), tags=tags
    )
    operator.register_fake(lambda first, *_: torch.empty_like(first))
    return operator


@_operator
def begin(latents: Tensor, prompt_embeds: Tensor, place: int) -> Tensor:
    """The beginning of a model call; returns the latents."""
    begin_call(place, latents, prompt_embeds)
    return latents.clone()


@_operator
def finish(output: Tensor) -> Tensor:
    """The end of a model call; returns its output."""
    finish_call()
    return output.clone()


@_operator
def attend(query: Tensor, key: Tensor, value: Tensor, layer: Tensor, backend: str | None) -> Tensor:
    """Self-attention `[B, L, H, D]` through the cache of the layer with that number."""
    output = current_call().attend(int(layer), query, key, value, backend)
    return torch.zeros_like(query) if output is None else output.contiguous()


@_operator
def attend_text(
    query: Tensor, key: Tensor, value: Tensor, layer: Tensor, backend: str | None
) -> Tensor:
    """Cross-attention `[B, L, H, D]` to the keys and values of the text `[B, L_text, H, D]`."""
    call = current_call()
    # copies, because compiled code uses its memory again
    known = call.text(int(layer), lambda: (key.clone(), value.clone()))
    output: Tensor = dispatch_attention_fn(query, *known, backend=call.backend or backend)
    return output.contiguous()
