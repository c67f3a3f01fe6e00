"""The one place where a backbone meets the cache: self-attention of a chunk through a `Bank`.

Axes: B samples, L = F x T tokens, H heads, D channels a head.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor

from tethercache.cache.bank import Bank
from tethercache.cache.policy import Fused, Pass, PassKind, Policy, View
from tethercache.cache.rope import Rope


def attend(
    bank: Bank,
    policy: Policy,
    pass_: Pass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    frames: int,
    index: Tensor,
    rope: Rope,
    backend: str | None = None,
) -> Tensor:
    """Write the chunk, let the policy act, and attend to what it lets this pass see.

    Args:
        bank: this layer's; changed in place.
        policy: decides what the bank keeps and shows.
        pass_: which call on the chunk this is.
        query: normalised, unrotated queries `[B, L, H, D]` of the chunk.
        key: normalised, unrotated keys, same shape.
        value: values, same shape.
        frames: latent frames in the chunk (F).
        index: which frames of the video they are, int64 `[B or 1, F]`.
        rope: rotary embedding of the token grid.
        backend: attention backend of diffusers' dispatcher; None for its active one. A bias always
            takes PyTorch's own, as the others know none.

    Returns:
        The attention output `[B, L, H, D]`.
    """
    remember(bank, policy, pass_, query, key, value, frames=frames, index=index, rope=rope)
    keys = bank.keys(rope)
    turned_query = bank.turn(query.unflatten(1, (frames, -1))).flatten(1, 2)

    def read(view: View) -> Tensor:
        seen_key, seen_value, bias = _seen(bank, keys, view)
        output: Tensor = dispatch_attention_fn(
            turned_query,
            seen_key,
            seen_value,
            attn_mask=bias,
            backend=backend if bias is None else backend and AttentionBackendName.NATIVE,
        )
        return output

    bank.query = query
    seen = policy.see(bank, pass_)
    bank.query = None
    bank.tell("read", pass_=pass_, seen=seen)
    return seen.fuse(*map(read, seen.views)) if isinstance(seen, Fused) else read(seen)


def remember(
    bank: Bank,
    policy: Policy,
    pass_: Pass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    frames: int,
    index: Tensor,
    rope: Rope,
) -> None:
    """Write the chunk and let the policy act: what `attend` does before the attention itself."""
    key, value = key.unflatten(1, (frames, -1)), value.unflatten(1, (frames, -1))
    bank.allocate(key)
    bank.grid = rope.grid
    if pass_.first:
        bank.begin(policy.open(bank, frames), index, again=pass_.kind is PassKind.REPLAY)
        bank.tell("open", pass_=pass_)
    if pass_.first or pass_.commits or not bank.keep_rotated:
        bank.write(key, value)
    else:  # nobody reads unrotated keys of a noisy chunk
        bank.write_values(value)
    if pass_.commits:
        if policy.needs_statistics:
            bank.measure()
        bank.query = query
        policy.commit(bank)
        bank.query = None
        bank.tell("commit", pass_=pass_)

    rotated = False
    if pass_.first or pass_.commits:
        rotated = bank.place(policy.place(bank), rope)
    if bank.keep_rotated and not rotated:
        bank.rotated[bank.rows, bank.current.index] = bank.turn(key)


def _seen(bank: Bank, keys: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values `[B, n, H, D]` of a view, and its bias `[B, H or 1, 1, n]` if any."""
    values, bias, forgotten = bank.value[:, : bank.readable], view.bias, bank.forgotten()
    if forgotten is not None:
        hidden = torch.zeros(forgotten.shape, device=keys.device)
        hidden = hidden.masked_fill_(forgotten, -torch.inf)[:, None, :, None]
        bias = hidden if bias is None else bias + hidden
    if bias is not None:
        heads = bias.shape[-3] if bias.dim() > 2 else 1
        bias = bias.expand(len(keys), heads, keys.shape[1], keys.shape[2])
    if view.slots is not None:
        index = view.slots.index
        keys, values = keys[bank.rows, index], values[bank.rows, index]
        if bias is not None:
            bias = bias.transpose(1, 2)[bank.rows, index].transpose(1, 2)
    if bias is not None:
        bias = bias.flatten(2).to(keys.dtype)[:, :, None]
    return keys.flatten(1, 2), values.flatten(1, 2), bias
