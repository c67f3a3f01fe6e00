"""The one place where a backbone meets the cache: self-attention of a chunk through a `LayerCache`.

Axes: B samples, L = F x T tokens, H heads, D channels a head.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from tethercache.cache.layer_cache import LayerCache
from tethercache.cache.policy import Pass, Policy, Read
from tethercache.cache.rope import Rope, Rotation


def attend(
    cache: LayerCache,
    policy: Policy,
    pass_: Pass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    frames: int,
    rope: Rope,
    backend: str | None = None,
) -> Tensor:
    """Write the chunk, let the policy act, and attend to what it lets this pass see.

    Args:
        cache: this layer's cache; changed in place.
        policy: decides what the cache keeps and shows.
        pass_: which call on the chunk this is.
        query: normalised, unrotated queries `[B, L, H, D]` of the chunk.
        key: normalised, unrotated keys, same shape.
        value: values, same shape.
        frames: latent frames in the chunk (F).
        rope: rotary embedding of the token grid.
        backend: attention backend of diffusers' dispatcher; None for its active one. A policy's
            additive bias always takes PyTorch's own, as the others know none.

    Returns:
        The attention output `[B, L, H, D]`.
    """
    read, now = remember(cache, policy, pass_, query, key, value, frames=frames, rope=rope)
    if cache.keep_rotated:
        keys = cache.rotated[:, : cache.readable]
    else:
        keys = cache.rotate_on_read(read.position, rope)
    turned_query = now(query.unflatten(1, (frames, -1))).flatten(1, 2)
    seen_key, seen_value, bias = _seen(cache, keys, read)
    if bias is not None and backend is not None:
        backend = AttentionBackendName.NATIVE
    output: Tensor = dispatch_attention_fn(
        turned_query, seen_key, seen_value, attn_mask=bias, backend=backend
    )
    return output


def remember(
    cache: LayerCache,
    policy: Policy,
    pass_: Pass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    frames: int,
    rope: Rope,
) -> tuple[Read, Rotation]:
    """Write the chunk and let the policy act: all of `attend` but the attention; see there.

    Returns:
        How this pass reads the cache, and the rotation of the chunk's own frames.
    """
    key, value = key.unflatten(1, (frames, -1)), value.unflatten(1, (frames, -1))
    cache.allocate(key)
    moved = settled = None
    if pass_.first:
        room = policy.make_room(cache, frames)
        cache.open(room.slots)
        moved = room.moved
    if pass_.first or pass_.commits or not cache.keep_rotated:
        cache.write(cache.current, key, value)
    else:  # nobody reads unrotated keys of a noisy chunk
        cache.write_values(cache.current, value)
    if pass_.commits:
        if policy.needs_statistics:
            cache.commit(cache.current)
        settled = policy.settle(cache, query)

    read = policy.read(cache, pass_)
    now = cache.turn_of_chunk(read.position, rope)
    if cache.keep_rotated:
        if moved is None:
            cache.rotated[cache.rows, cache.current] = now(key)
        for slots in (moved, settled):
            if slots is not None:
                cache.rotate(slots, read.position, rope)
    return read, now


def _seen(cache: LayerCache, keys: Tensor, read: Read) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values `[B, n, H, D]` that a read shows, and its bias `[B, 1, 1, n]` if any."""
    values, bias = cache.value[:, : cache.readable], read.bias
    if read.visible is not None:
        keys = keys[cache.rows, read.visible]
        values = values[cache.rows, read.visible]
        bias = None if bias is None else bias.gather(1, read.visible)
    if bias is not None:
        tokens = keys.shape[2]
        bias = torch.repeat_interleave(bias, tokens, dim=1).to(keys.dtype)[:, None, None]
    return keys.flatten(1, 2), values.flatten(1, 2), bias
