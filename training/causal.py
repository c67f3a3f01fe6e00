"""Chunk-causal attention for training, on diffusers' unmodified `WanTransformer3DModel`.

Teacher forcing: the model sees `[clean | noisy_1 | ... | noisy_S]` on the frame axis. All streams
have the RoPE positions 0..F-1. One rule makes the mask: a token sees every *clean* token of
earlier chunks, and its own stream's tokens of its own chunk. So a clean chunk sees the clean past
and itself, and a noisy chunk sees the clean past and itself: exactly what it sees at inference
through a cache.

Axes: B batch, C latent channels, F latent frames, S noisy streams, T tokens a frame, L tokens, H
heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel

SIGMAS = (1.0, 0.9375, 0.8333333, 0.625)  # the four noise levels of the few-step sampler (shift 5)


def stream_mask(chunks: torch.Tensor, streams: torch.Tensor) -> torch.Tensor:
    """Which token sees which: bool `[L, L]` (query, key) from chunk and stream numbers `[L]`.

    Stream 0 is clean.
    """
    past = (streams[None] == 0) & (chunks[None] < chunks[:, None])
    own = (streams[None] == streams[:, None]) & (chunks[None] == chunks[:, None])
    return past | own


class StreamAttention:
    """Self-attention processor with a mask and explicit positions (one for all blocks)."""

    def __init__(self, chunk_size: int, rope: Any) -> None:
        self.chunk_size, self.rope = chunk_size, rope
        self.committed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.caches = self.commits = False
        self.mask: torch.Tensor | None = None
        self.cos = self.sin = torch.empty(0)
        self._known: dict[tuple[object, ...], Any] = {}

    def declare(
        self, frames: list[int], streams: list[int], grid: tuple[int, int], device: torch.device
    ) -> None:
        """Set what the next calls need: position and stream of each latent frame.

        `grid` is a frame's rows and columns of tokens. Sets the additive float mask `[L, L]` (None
        if every token sees every other, as in a chunk on its own) and the cosines and sines
        `[1, L, 1, D/2]` of the positions.
        """
        key = (tuple(frames), tuple(streams), grid, device)
        if key not in self._known:
            position, stream = torch.tensor(frames), torch.tensor(streams)
            tokens = grid[0] * grid[1]
            chunks = (position // self.chunk_size).repeat_interleave(tokens)
            seen = stream_mask(chunks, stream.repeat_interleave(tokens))
            mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).to(device)
            _, rows, columns = self.rope.patch_size
            cos, sin = self.rope(
                torch.empty(0, 0, max(frames) + 1, grid[0] * rows, grid[1] * columns)
            )
            index = (position[:, None] * tokens + torch.arange(tokens)).flatten().to(cos.device)
            angles = (cos[:, index, :, 0::2].to(device), sin[:, index, :, 1::2].to(device))
            self._known[key] = (None if seen.all() else mask, *angles)
        self.mask, self.cos, self.sin = self._known[key]

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend: `[B, L, H*D] -> [B, L, H*D]`."""
        query, key, value = project(attn, hidden_states, hidden_states)
        query, key = rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin)
        if self.caches:
            key, value = self._with_past(id(attn), key, value)
        return attn.to_out[0](attend(query, key, value, self.mask))

    def _with_past(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[B, L, H, D]` behind those of the committed frames."""
        if layer in self.committed:
            past_key, past_value = self.committed[layer]
            key, value = torch.cat([past_key, key], 1), torch.cat([past_value, value], 1)
        if self.commits:
            self.committed[layer] = (key, value)
        return key, value


class TextAttention:
    """Cross-attention processor: every token sees every row of the prompt's embeddings."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend: `[B, L, H*D]` to `[B, rows, H*D]`."""
        query, key, value = project(attn, hidden_states, encoder_hidden_states)
        return attn.to_out[0](attend(query, key, value, None))


def project(
    attn: Any, asking: torch.Tensor, seen: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised queries of `asking` `[B, L, C]`, keys and values of `seen`, all `[B, L, H, D]`."""
    query, key = attn.norm_q(attn.to_q(asking)), attn.norm_k(attn.to_k(seen))
    query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(seen)))
    return query, key, value


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of `[B, L, H, D]` written out, `[B, L, H*D]`.

    For the few tokens of this model the backward pass of these products is 2 to 5 times faster on
    CPU than that of `scaled_dot_product_attention`, which works in blocks.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of adjacent pairs of `[B, L, H, D]` by angles `[1, L, 1, D/2]`."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).type_as(x)


def install(
    transformer: WanTransformer3DModel, chunk_size: int, *, compile_blocks: bool = False
) -> StreamAttention:
    """Put one `StreamAttention` into every block's self-attention and return it.

    With `compile_blocks` `torch.compile` makes the blocks faster; each shape is compiled once.
    """
    if compile_blocks:
        torch._dynamo.config.recompile_limit = 64  # shapes x models that share a block's code
    processor, text_processor = StreamAttention(chunk_size, transformer.rope), TextAttention()
    for block in transformer.blocks:
        block.attn1.set_processor(processor)
        block.attn2.set_processor(text_processor)
        if compile_blocks:
            block.compile(dynamic=False)
    return processor


def token_grid(transformer: WanTransformer3DModel, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of tokens of a latent frame."""
    _, patch_h, patch_w = transformer.config.patch_size
    return h // patch_h, w // patch_w


def predict_flow(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    sigmas: torch.Tensor,
    text: torch.Tensor,
) -> torch.Tensor:
    """Flow of noisy streams given the clean past.

    Args:
        transformer: the model, with `processor` installed.
        processor: what `install` returned.
        clean: the video from its first frame on, latents `[B, C, frames, h, w]`; its last chunk is
            nobody's past and is left out.
        noisy: noisy latents `[B, S, C, F, h, w]` of the video's last F frames (all, or fewer).
        sigmas: their noise levels `[B, S, F]` (equal within a chunk).
        text: prompt embeddings `[B, rows, d]`.

    Returns:
        flow prediction `[B, S, C, F, h, w]`.
    """
    b, s, _, f, h, w = noisy.shape
    frames = clean.shape[2]
    past = frames - processor.chunk_size
    grid = token_grid(transformer, h, w)
    processor.declare(
        list(range(past)) + list(range(frames - f, frames)) * s,
        [0] * past + [i + 1 for i in range(s) for _ in range(f)],
        grid,
        clean.device,
    )
    video = torch.cat([clean[:, :, :past], noisy.transpose(1, 2).flatten(2, 3)], 2)
    levels = torch.cat([torch.zeros(b, past, device=sigmas.device), sigmas.flatten(1)], 1)
    timestep = (1000 * levels).repeat_interleave(grid[0] * grid[1], 1)
    out = transformer(video, timestep, text, return_dict=False)[0]
    return out[:, :, past:].unflatten(2, (s, f)).transpose(1, 2)


def first_chunk_flow(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    noisy: torch.Tensor,
    sigmas: torch.Tensor,
    text: torch.Tensor,
) -> torch.Tensor:
    """Flow of first chunks `[B, C, chunk, h, w]`, which have no past, at noise levels `[B]`."""
    _, _, f, h, w = noisy.shape
    grid = token_grid(transformer, h, w)
    processor.declare(list(range(f)), [0] * f, grid, noisy.device)
    return transformer(noisy, 1000 * sigmas, text, return_dict=False)[0]


@torch.no_grad()
def rollout(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    text: torch.Tensor,
    num_frames: int,
    generator: torch.Generator,
    size: int = 8,
    past: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Generate latents with the few-step sampler, keeping what it went through.

    All frames stay in a plain cache, so this is for the training window; beyond it,
    `tethercache` itself generates. With a clean `past` `[B, C, P, h, w]` the frames come after it.

    Returns:
        the video `[B, C, P + F, h, w]`; the noisy states at the four noise levels and the x0
        predicted from each, both `[B, 4, C, F, h, w]`.
    """
    chunk, batch, device = processor.chunk_size, text.shape[0], text.device
    shape = (batch, transformer.config.in_channels, chunk, size, size)
    grid = token_grid(transformer, size, size)
    clean = torch.zeros(batch, device=device)
    known = 0 if past is None else past.shape[2]
    processor.caches, processor.committed = True, {}

    def commit(frames: torch.Tensor, first: int) -> None:
        """Run clean frames at positions from `first` on; their keys and values stay."""
        count = frames.shape[2]
        processor.declare(list(range(first, first + count)), [0] * count, grid, device)
        processor.commits = True
        transformer(frames, clean, text, return_dict=False)
        processor.commits = False

    if past is not None:
        commit(past, 0)
    chunks = []
    for first in range(known, known + num_frames, chunk):
        processor.declare(list(range(first, first + chunk)), [0] * chunk, grid, device)
        x0, seen = torch.zeros(shape, device=device), []
        for sigma in SIGMAS:
            noise = torch.randn(shape, generator=generator).to(device)
            x = (1 - sigma) * x0 + sigma * noise
            level = torch.full((batch,), 1000 * sigma, device=device)
            x0 = x - sigma * transformer(x, level, text, return_dict=False)[0].float()
            seen.append((x, x0))
        chunks.append([torch.stack(part, 1) for part in zip(*seen, strict=True)])
        commit(x0, first)
    processor.caches, processor.committed = False, {}
    states, made = (torch.cat(part, 3)[:, :, :, :num_frames] for part in zip(*chunks, strict=True))
    video = made[:, -1] if past is None else torch.cat([past, made[:, -1]], 2)
    return video, states, made
