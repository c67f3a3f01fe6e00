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

import torch
import torch.nn.functional as nnf
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

    def __init__(self, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self.frames: torch.Tensor | None = None
        self.streams: torch.Tensor | None = None
        self._masks: dict[tuple[object, ...], torch.Tensor] = {}

    def declare(self, frames: list[int], streams: list[int]) -> None:
        """Position and stream of each latent frame of the next calls."""
        self.frames, self.streams = torch.tensor(frames), torch.tensor(streams)

    def mask(self, tokens: int, device: torch.device) -> torch.Tensor:
        """Additive float mask `[L, L]` for the declared frames, `tokens` tokens each."""
        assert self.frames is not None
        assert self.streams is not None
        key = (tuple(self.frames.tolist()), tuple(self.streams.tolist()), tokens, device)
        if key not in self._masks:
            chunks = (self.frames // self.chunk_size).repeat_interleave(tokens)
            seen = stream_mask(chunks, self.streams.repeat_interleave(tokens))
            self._masks[key] = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).to(device)
        return self._masks[key]

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend: `[B, L, H*D] -> [B, L, H*D]`."""
        assert self.frames is not None
        assert rotary_emb is not None
        tokens = hidden_states.shape[1] // len(self.frames)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1))
        index = (self.frames[:, None] * tokens + torch.arange(tokens)).flatten()
        cos, sin = (x[:, index] for x in rotary_emb)
        turn = torch.complex(cos[..., 0::2].float(), sin[..., 1::2].float())
        query, key = _rotate(query, turn), _rotate(key, turn)
        out = nnf.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=self.mask(tokens, value.device),
        )
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Rotary embedding: adjacent pairs of `[B, L, H, D]`, as complex numbers, times `turn`."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).type_as(x)


def install(transformer: WanTransformer3DModel, chunk_size: int) -> StreamAttention:
    """Put one `StreamAttention` into every block's self-attention and return it."""
    processor = StreamAttention(chunk_size)
    for block in transformer.blocks:
        block.attn1.set_processor(processor)
    return processor


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
        clean: context latents `[B, C, F, h, w]`.
        noisy: noisy latents `[B, S, C, F, h, w]`.
        sigmas: their noise levels `[B, S, F]` (equal within a chunk).
        text: prompt embeddings `[B, rows, d]`.

    Returns:
        flow prediction `[B, S, C, F, h, w]`.
    """
    b, s, _, f, h, w = noisy.shape
    processor.declare(list(range(f)) * (s + 1), [i for i in range(s + 1) for _ in range(f)])
    video = torch.cat([clean, noisy.transpose(1, 2).flatten(2, 3)], 2)
    levels = torch.cat([torch.zeros(b, f, device=sigmas.device), sigmas.flatten(1)], 1)
    timestep = (1000 * levels).repeat_interleave((h // 2) * (w // 2), 1)
    out = transformer(video, timestep, text, return_dict=False)[0]
    return out[:, :, f:].unflatten(2, (s, f)).transpose(1, 2)


def first_chunk_flow(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    noisy: torch.Tensor,
    sigmas: torch.Tensor,
    text: torch.Tensor,
) -> torch.Tensor:
    """Flow of first chunks `[B, C, chunk, h, w]`, which have no past, at noise levels `[B]`."""
    _, _, f, h, w = noisy.shape
    processor.declare(list(range(f)), [0] * f)
    timestep = (1000 * sigmas)[:, None].expand(-1, f * (h // 2) * (w // 2))
    return transformer(noisy, timestep, text, return_dict=False)[0]


@torch.no_grad()
def denoise_in_parallel(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    context: torch.Tensor,
    start: torch.Tensor,
    first_level: int,
    text: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Run the few-step sampler for all chunks at once, each on a given past.

    `start` `[B, C, F, h, w]` is noised to level `first_level` (at 0 it is pure noise, `start`
    plays no part). Returns the model's own x0 `[B, C, F, h, w]`.
    """
    x0 = start
    for sigma in SIGMAS[first_level:]:
        noise = torch.randn(start.shape, generator=generator).to(start.device)
        x = (1 - sigma) * x0 + sigma * noise
        levels = torch.full((start.shape[0], 1, start.shape[2]), sigma, device=start.device)
        x0 = (
            x
            - sigma * predict_flow(transformer, processor, context, x[:, None], levels, text)[:, 0]
        )
    return x0


@torch.no_grad()
def rollout(
    transformer: WanTransformer3DModel,
    processor: StreamAttention,
    text: torch.Tensor,
    num_frames: int,
    window: int,
    generator: torch.Generator,
    size: int = 8,
) -> torch.Tensor:
    """Generate latents `[B, C, F, h, w]` without a cache: every call recomputes the window.

    A naive oracle for looking at results: beyond `window` frames the oldest are forgotten and
    positions are counted from the window's start.
    """
    chunk, channels = processor.chunk_size, transformer.config.in_channels
    video = torch.zeros(text.shape[0], channels, 0, size, size, device=text.device)
    for _ in range(0, num_frames, chunk):
        past = video[:, :, max(0, video.shape[2] - window + chunk) :]
        count = past.shape[2]
        processor.declare(list(range(count + chunk)), [0] * (count + chunk))
        x0 = torch.zeros(text.shape[0], channels, chunk, size, size, device=text.device)
        for sigma in SIGMAS:
            noise = torch.randn(x0.shape, generator=generator).to(x0.device)
            x = (1 - sigma) * x0 + sigma * noise
            levels = torch.zeros(text.shape[0], count + chunk, device=text.device)
            levels[:, count:] = 1000 * sigma
            timestep = levels.repeat_interleave(size * size // 4, 1)
            out = transformer(torch.cat([past, x], 2), timestep, text, return_dict=False)[0]
            x0 = x - sigma * out[:, :, count:]
        video = torch.cat([video, x0], 2)
    return video[:, :, :num_frames]
