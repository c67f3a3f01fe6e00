"""The least that a causal chunk can cost: a transformer that attends to a static buffer.

`attach_bare` gives diffusers' unmodified `WanTransformer3DModel` attention processors that know no
memory management: project, rotate the chunk's queries and keys, write the chunk's keys and values
over the last frames of a buffer of K frames, attend to all of it. The other frames hold random
numbers and never move. Everything else is done as sparingly as in a real session: text MLP, text
keys and text values once a prompt, the rotation table once.

It is the yardstick for the baselines: a policy that is no slower than a slow window proves nothing.

Axes: B samples, F latent frames, T tokens a frame, L = F x T, H heads, D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from tethercache.backbones.projections import (
    project,
    project_out,
    project_queries,
    project_seen,
)
from tethercache.cache import Rope, Rotation


class _Enough(Exception):
    """Ends a context pass whose remaining output nobody reads."""


@dataclass
class Buffer:
    """Keys as attention reads them, and values, of K frames, `[B, K, T, H, D]`."""

    key: Tensor
    value: Tensor


class BareSession:
    """Takes the place of a `Session` in a rollout. Made by `attach_bare`.

    Attributes:
        buffers: one for each block; None before the first call.
    """

    def __init__(self, transformer: WanTransformer3DModel, budget: int) -> None:
        self.buffers: list[Buffer | None] = [None] * len(transformer.blocks)
        self.text: list[tuple[Tensor, Tensor] | None] = [None] * len(transformer.blocks)
        self.projected_text: Tensor | None = None
        self._config = transformer.config
        self._budget = budget
        self._frames = 0
        self._rotation: Rotation | None = None
        self._size = (0, 0)
        self._discarding = False

    @contextmanager
    def chunk(self, frames: int, steps: int | None = None) -> Iterator[None]:
        """The next chunk of `frames` latent frames; all must have the same number."""
        if self._frames not in (0, frames):
            raise ValueError(f"a bare transformer takes chunks of {self._frames}, not {frames}")
        self._frames = frames
        yield

    def attached(self) -> nullcontext[None]:
        """It is attached from its first chunk to its last."""
        return nullcontext()

    def denoising_pass(self) -> nullcontext[None]:
        """A denoising step."""
        return nullcontext()

    @contextmanager
    def context_pass(self, *, output: bool = True) -> Iterator[None]:
        """The pass on clean latents; without `output` the last keys and values end it."""
        self._discarding = not output
        try:
            yield
        except _Enough:
            pass
        finally:
            self._discarding = False

    def see(self, latents: Tensor) -> None:
        """Take the token grid from the latents `[B, C, F, h, w]` of a call."""
        _, rows, columns = self._config.patch_size
        self._size = (latents.shape[-2] // rows, latents.shape[-1] // columns)

    def self_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, backend: str | None
    ) -> Tensor:
        """Attention of a chunk; all unrotated `[B, L, H, D]`."""
        query, key, value = (x.unflatten(1, (self._frames, -1)) for x in (query, key, value))
        buffer = self.buffers[layer] or self._fill(layer, key)
        rotation = self._rotation or self._turn(key)
        return attend(
            buffer,
            rotation,
            query,
            key,
            value,
            backend=backend,
            done=self._discarding and layer == len(self.buffers) - 1,
        )

    def _fill(self, layer: int, key: Tensor) -> Buffer:
        """Random frames: keys have been normalised, so both have the size of real ones."""
        batch, _, *frame = key.shape
        random = torch.Generator(key.device).manual_seed(layer)
        shape = (batch, self._budget, *frame)
        both = (
            torch.randn(shape, generator=random, device=key.device, dtype=key.dtype)
            for _ in range(2)
        )
        buffer = self.buffers[layer] = Buffer(*both)
        return buffer

    def _turn(self, key: Tensor) -> Rotation:
        rope = Rope(self._config.attention_head_dim, *self._size, device=key.device)
        last = torch.arange(self._budget - self._frames, self._budget, device=key.device)
        self._rotation = rope.at(last.expand(key.shape[0], -1))
        return self._rotation


def attend(
    buffer: Buffer,
    rotation: Rotation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    backend: str | None = None,
    done: bool = False,
) -> Tensor:
    """Write the chunk behind the static frames and attend to all.

    Args:
        buffer: changed in place.
        rotation: of the chunk's frames.
        query: unrotated `[B, F, T, H, D]`.
        key: unrotated, same shape.
        value: same shape.
        backend: of diffusers' dispatcher.
        done: whether the chunk's keys and values were all that the pass was for.

    Returns:
        `[B, F x T, H, D]`.
    """
    frames = key.shape[1]
    buffer.key[:, -frames:] = rotation(key)
    buffer.value[:, -frames:] = value
    if done:
        raise _Enough
    output: Tensor = dispatch_attention_fn(
        rotation(query).flatten(1, 2),
        buffer.key.flatten(1, 2),
        buffer.value.flatten(1, 2),
        backend=backend,
    )
    return output


@contextmanager
def attach_bare(
    transformer: WanTransformer3DModel, budget: int, *, attention: str | None = None
) -> Iterator[BareSession]:
    """Let a transformer attend to a static buffer inside a `with` block.

    Args:
        transformer: an unmodified text-to-video model; restored on exit.
        budget: latent frames that attention reads, the chunk included (K).
        attention: backend of diffusers' dispatcher; None: the one that
            `transformer.set_attention_backend` chose.
    """
    session = BareSession(transformer, budget)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        session.see(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as undo:
        undo.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        embedder = transformer.condition_embedder
        undo.callback(setattr, embedder, "text_embedder", embedder.text_embedder)
        embedder.text_embedder = _Once(session, embedder.text_embedder)
        for layer, block in enumerate(transformer.blocks):
            for at, kind in ((block.attn1, _SelfAttention), (block.attn2, _TextAttention)):
                undo.callback(setattr, at, "processor", at.processor)
                at.processor = kind(session, layer, at.processor, attention)
        yield session


class _Once(nn.Module):
    """The text MLP, whose result is the same in every pass."""

    def __init__(self, session: BareSession, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self._session = session

    def forward(self, prompt_embeds: Tensor) -> Tensor:
        if self._session.projected_text is None:
            self._session.projected_text = self.embedder(prompt_embeds)
        return self._session.projected_text


class _Processor:
    def __init__(
        self, session: BareSession, layer: int, replaced: Any, backend: str | None
    ) -> None:
        self.session = session
        self.layer = layer
        self._attention_backend = backend or getattr(replaced, "_attention_backend", None)
        self._parallel_config = None


class _SelfAttention(_Processor):
    """Self-attention to the static buffer."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        chunk = project(attn, hidden_states)
        output = self.session.self_attention(self.layer, *chunk, self._attention_backend)
        return project_out(attn, output)


class _TextAttention(_Processor):
    """Cross-attention whose keys and values are computed once."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        known = self.session.text[self.layer]
        if known is None:
            known = self.session.text[self.layer] = project_seen(attn, encoder_hidden_states)
        query = project_queries(attn, hidden_states)
        output = dispatch_attention_fn(query, *known, backend=self._attention_backend)
        return project_out(attn, output)
