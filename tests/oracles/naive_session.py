"""TetherCache and the window policies written down naively: lists, concatenations, full logits.

One sample, one frame at a time, everything recomputed in every pass: keys are concatenated and
rotated in complex float64 before each attention, GRAB averages the full logits, TAME computes
statistics from the tokens. It shares no code with `tethercache.cache` or `tethercache.policies`.

Axes: T tokens a frame, H heads, D channels a head; frames are `[T, H, D]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Frame:
    index: int
    key: Tensor
    value: Tensor


@dataclass
class Layer:
    frames: list[Frame] = field(default_factory=list)
    pending: list[Frame] = field(default_factory=list)
    filled: bool = False


class NaiveSession:
    """Stands in for `tethercache.backbones.Session` in a rollout of one sample."""

    def __init__(self, transformer: Any, kind: str, **options: Any) -> None:
        self.transformer, self.kind, self.options = transformer, kind, options
        self.layers = [Layer() for _ in transformer.blocks]
        self.committed = 0
        self.max_read = 0

    def attached(self) -> nullcontext[None]:
        return nullcontext()

    @contextmanager
    def chunk(self, frames: int, steps: int | None = None) -> Iterator[None]:
        self.frames, self.first = frames, True
        yield
        self.committed += frames

    @contextmanager
    def denoising_pass(self) -> Iterator[None]:
        self.context = False
        yield
        self.first = False

    @contextmanager
    def context_pass(self, *, output: bool = True) -> Iterator[None]:
        self.context = True
        yield
        self.first = False

    def attend(self, number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """All `[L, H, D]`, unrotated."""
        layer, c = self.layers[number], self.frames
        keys, values = key.chunk(c), value.chunk(c)
        new = [Frame(self.committed + i, keys[i], values[i]) for i in range(c)]
        if self.first:
            self._room(layer, c)
            layer.frames += new
        else:
            layer.frames[-c:] = new
        if self.context and self.kind == "tethercache":
            if len(layer.frames) == self._budget():
                layer.filled = True
            if layer.pending and layer.filled and self.options["memory"]:
                self._admit(layer, query)
            layer.pending = []
        n = len(layer.frames)
        self.max_read = max(self.max_read, n)
        absolute = self.options.get("positions") == "absolute"
        positions = [f.index for f in layer.frames] if absolute else list(range(n))
        all_keys = torch.cat(
            [self._rope(f.key, p) for f, p in zip(layer.frames, positions, strict=True)]
        )
        all_values = torch.cat([f.value for f in layer.frames])
        queries = torch.cat(
            [self._rope(q, p) for q, p in zip(query.chunk(c), positions[-c:], strict=True)]
        )
        logits = torch.einsum("qhd,khd->hqk", queries, all_keys) / key.shape[-1] ** 0.5
        return torch.einsum("hqk,khd->qhd", logits.softmax(-1), all_values)

    def _budget(self) -> int:
        o = self.options
        return o["window"] if self.kind == "window" else o["sink"] + o["memory"] + o["recent"]

    def _room(self, layer: Layer, c: int) -> None:
        over = len(layer.frames) + c - self._budget()
        if over <= 0:
            return
        if self.kind == "window":
            del layer.frames[self.options["sink"] : self.options["sink"] + over]
        else:
            start = self.options["sink"] + self.options["memory"]
            layer.pending = layer.frames[start : start + c]
            del layer.frames[start : start + c]

    def _admit(self, layer: Layer, query: Tensor) -> None:
        o = self.options
        sink, memory = o["sink"], o["memory"]
        members = layer.frames[sink : sink + memory]
        candidates = members + layer.pending
        scale = query.shape[-1] ** -0.5
        logits = torch.stack(
            [torch.einsum("qhd,khd->hqk", query, f.key).mean() * scale for f in candidates]
        )
        mass = (logits / o["temperature"]).softmax(0)
        index = [f.index for f in candidates]
        reach = max(1.0, (max(index) - min(index) + 1) / 2)
        scores = []
        for i, own in enumerate(index):
            redundancy = max(
                (
                    torch.exp(torch.tensor(-abs(own - other) / reach)) * mass[j]
                    for j, other in enumerate(index)
                    if j != i
                ),
                default=torch.tensor(0.0),
            )
            scores.append(mass[i] + o["alpha"] * max(torch.tensor(0.0), 1 - redundancy))
        kept = sorted(torch.stack(scores).argsort(descending=True)[:memory].tolist())
        trusted = layer.frames[:sink] + members
        new_memory = []
        for i in kept:
            frame = candidates[i]
            if i >= memory:
                frame = Frame(
                    frame.index,
                    _align(frame.key, torch.cat([f.key for f in trusted]), o["tau"]),
                    _align(frame.value, torch.cat([f.value for f in trusted]), o["tau"]),
                )
            new_memory.append(frame)
        layer.frames[sink : sink + memory] = new_memory

    def _rope(self, frame: Tensor, position: int) -> Tensor:
        tokens, heads, channels = frame.shape
        turn = _turn(position, tokens, self.columns, channels)[:, None]
        spun = torch.view_as_complex(frame.double().reshape(tokens, heads, -1, 2)) * turn
        return torch.view_as_real(spun).flatten(-2).to(frame.dtype)

    def see(self, latents: Tensor) -> None:
        """Learn the token grid from the latents `[1, C, F, h, w]` of a call."""
        self.columns = latents.shape[-1] // 2


@cache
def _turn(position: int, tokens: int, columns: int, channels: int) -> Tensor:
    pairs, space = channels // 2, channels // 6
    angles = torch.zeros(tokens, pairs, dtype=torch.float64)
    for token in range(tokens):
        row, column = divmod(token, columns)
        start = 0
        for place, count in ((position, pairs - 2 * space), (row, space), (column, space)):
            for i in range(count):
                angles[token, start + i] = place * 10000.0 ** (-i / count)
            start += count
    return torch.polar(torch.ones_like(angles), angles)


def _align(x: Tensor, trusted: Tensor, tau: float) -> Tensor:
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    to_mean, to_std = trusted.mean(0), trusted.std(0, correction=0).clamp(min=1e-6)
    return (1 - tau) * x + tau * (to_std * (x - mean) / std + to_mean)


class _Processor:
    def __init__(self, session: NaiveSession, layer: int) -> None:
        self.session, self.layer = session, layer

    def __call__(
        self, attn: Any, x: Tensor, text: Any = None, mask: Any = None, rotary: Any = None
    ) -> Tensor:
        source = x if text is None else text
        query, key, value = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(source)), None
        value = attn.to_v(source)
        query, key, value = (t.unflatten(-1, (attn.heads, -1))[0] for t in (query, key, value))
        if text is None:
            out = self.session.attend(self.layer, query, key, value)
        else:
            out = F.scaled_dot_product_attention(
                query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
            ).transpose(0, 1)
        return attn.to_out[0](out.flatten(1)[None])


@contextmanager
def naive_attach(transformer: Any, kind: str, **options: Any) -> Iterator[NaiveSession]:
    session = NaiveSession(transformer, kind, **options)
    old = [(a, a.processor) for b in transformer.blocks for a in (b.attn1, b.attn2)]
    hook = transformer.register_forward_pre_hook(
        lambda module, args, kwargs: session.see(args[0]), with_kwargs=True
    )
    try:
        for layer, block in enumerate(transformer.blocks):
            block.attn1.processor = _Processor(session, layer)
            block.attn2.processor = _Processor(session, layer)
        yield session
    finally:
        hook.remove()
        for attention, processor in old:
            attention.processor = processor
