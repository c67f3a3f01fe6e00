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

from typing import Any, NamedTuple

import torch
from diffusers import WanTransformer3DModel

from tethercache.backbones.projections import (
    project,
    project_out,
    project_queries,
    project_seen,
)
from tethercache.cache import Rope

SIGMAS = (1.0, 0.9375, 0.8333333, 0.625)  # the four noise levels of the few-step sampler (shift 5)


class Group(NamedTuple):
    """Frames `start` to `stop` of one chunk of one stream, and the `past` first frames they see."""

    start: int
    stop: int
    past: int


def groups(chunks: list[int], streams: list[int]) -> list[Group]:
    """Who sees whom, from each frame's chunk and stream; stream 0 is clean and comes first.

    The frames of a group see each other and the clean frames of earlier chunks.
    """
    names = list(zip(streams, chunks, strict=True))
    starts = [i for i, name in enumerate(names) if not i or name != names[i - 1]]
    clean = [chunk for stream, chunk in names if stream == 0]
    return [
        Group(start, stop, sum(chunk < chunks[start] for chunk in clean))
        for start, stop in zip(starts, [*starts[1:], len(names)], strict=True)
    ]


class StreamAttention:
    """Self-attention processor with groups and explicit positions (one for all blocks)."""

    def __init__(self, chunk_size: int, head_dim: int) -> None:
        self.chunk_size, self.head_dim = chunk_size, head_dim
        self.committed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.caches = self.commits = False
        self.groups: list[Group] = []  # in tokens
        self.cos = self.sin = torch.empty(0)
        self._known: dict[tuple[object, ...], Any] = {}

    def declare(
        self, frames: list[int], streams: list[int], grid: tuple[int, int], device: torch.device
    ) -> None:
        """Set what the next calls need: position and stream of each latent frame.

        `grid` is a frame's rows and columns of tokens. Sets who sees whom and the cosines and
        sines `[1, L, 1, D/2]` of the positions.
        """
        key = (tuple(frames), tuple(streams), grid, device)
        if key not in self._known:
            parts = groups([frame // self.chunk_size for frame in frames], streams)
            parts = [Group(*(grid[0] * grid[1] * frame for frame in part)) for part in parts]
            turn = Rope(self.head_dim, *grid).at(torch.tensor([frames])).turn.flatten(1, 2)
            angles = (part.contiguous().to(device) for part in (turn.real, turn.imag))
            self._known[key] = (parts, *angles)
        self.groups, self.cos, self.sin = self._known[key]

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend: `[B, L, H*D] -> [B, L, H*D]`."""
        query, key, value = project(attn, hidden_states)
        query, key = rotate(query, self.cos, self.sin), rotate(key, self.cos, self.sin)
        if self.caches:
            key, value = self._with_past(id(attn), key, value)
        known = key.shape[1] - query.shape[1]
        seen = [
            attend(
                query[:, start:stop],
                *(
                    torch.cat([x[:, : known + past], x[:, known + start : known + stop]], 1)
                    for x in (key, value)
                ),
            )
            for start, stop, past in self.groups
        ]
        return project_out(attn, torch.cat(seen, 1))

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
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend: `[B, L, H*D]` to `[B, rows, H*D]`."""
        query = project_queries(attn, hidden_states)
        return project_out(attn, attend(query, *project_seen(attn, encoder_hidden_states)))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of `[B, L, H, D]` to all keys, `[B, L, H*D]`."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    seen: torch.Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query.type_as(value), key.type_as(value), value
    )
    return seen.transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
    """Attention of `[B, H, L, D]`, written out, which keeps the weights for the way back.

    For the few tokens of this model that is several times faster on a CPU than
    `scaled_dot_product_attention`, whose backward pass works in blocks, and than the same products
    under autocast, which makes the softmax in float32.
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        with torch.autocast(query.device.type, enabled=False):
            query = query * query.shape[-1] ** -0.5
            weights = (query @ key.transpose(-1, -2)).softmax(-1)
            out = weights @ value
        ctx.save_for_backward(query, key, value, weights, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        query, key, value, weights, out = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            inner = (grad * out).sum(-1, keepdim=True)
            scores = (grad @ value.transpose(-1, -2)).sub_(inner).mul_(weights)
            grad_query = (scores @ key).mul_(query.shape[-1] ** -0.5)
            return grad_query, scores.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ grad


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of adjacent pairs of `[B, L, H, D]` by angles `[1, L, 1, D/2]`.

    What a `Rotation` of the cache does, in real numbers: `torch.compile` knows no complex ones.
    """
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
    processor = StreamAttention(chunk_size, transformer.config.attention_head_dim)
    text_processor = TextAttention()
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
