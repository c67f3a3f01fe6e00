"""Wan's attention without the attending: what is asked, what is seen, and the way back.

Axes: B samples, L tokens, C channels, H heads, D channels a head.

Every attention of this project goes through these functions, whatever it attends to: the cache, the
static buffer of the yardstick, the streams of a training. `attn` has the names of diffusers'
`WanAttention`: `to_q`, `to_k`, `to_v`, `norm_q`, `norm_k`, `to_out`, `heads`, `fused_projections`.
Keys and queries are normalised over all heads at once, and are not rotated here: where in time they
stand is for the caller to say.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor


def project(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[B, L, H, D]` of tokens `[B, L, C]` that look at themselves."""
    if attn.fused_projections:
        query, key, value = attn.to_qkv(x).chunk(3, dim=-1)
    else:
        query, key, value = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    return _heads(attn, attn.norm_q(query)), _heads(attn, attn.norm_k(key)), _heads(attn, value)


def project_queries(attn: Any, x: Tensor) -> Tensor:
    """Queries `[B, L, H, D]` of tokens `[B, L, C]` that look at something else."""
    return _heads(attn, attn.norm_q(attn.to_q(x)))


def project_seen(attn: Any, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values `[B, L, H, D]` of what other tokens look at, `[B, L, C]`."""
    if attn.fused_projections:
        key, value = attn.to_kv(seen).chunk(2, dim=-1)
    else:
        key, value = attn.to_k(seen), attn.to_v(seen)
    return _heads(attn, attn.norm_k(key)), _heads(attn, value)


def project_out(attn: Any, output: Tensor) -> Tensor:
    """What an attention hands on, `[B, L, C]`, of its output `[B, L, H, D]` or `[B, L, H*D]`."""
    projection, dropout = attn.to_out
    projected: Tensor = dropout(projection(output.flatten(2)))
    return projected


def renamed(attention: Any) -> Any:
    """An attention with the names of the original Wan code, under those that this module knows."""
    return SimpleNamespace(
        to_q=attention.q,
        to_k=attention.k,
        to_v=attention.v,
        norm_q=attention.norm_q,
        norm_k=attention.norm_k,
        to_out=(attention.o, _same),
        heads=attention.num_heads,
        fused_projections=False,
    )


def _same(x: Tensor) -> Tensor:
    return x


def _heads(attn: Any, x: Tensor) -> Tensor:
    split: Tensor = x.unflatten(-1, (attn.heads, -1))
    return split
