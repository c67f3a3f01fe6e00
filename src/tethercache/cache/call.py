"""One model call on a chunk, as the layers of a transformer see it.

Axes: B samples, L = F x T tokens, H heads, D channels a head.

What stands in a model knows the number of its layer and looks up the call in progress; it holds no
state of its own. So any number of videos take turns on one model. A call belongs to the thread (or
the asynchronous task) that makes it, and to who expects it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from tethercache.cache.attention import attend, remember
from tethercache.cache.bank import Bank
from tethercache.cache.policy import Pass, PassKind, Policy
from tethercache.cache.rope import Rope
from tethercache.errors import SessionError


class PromptMemory:
    """What a stream has computed of its prompt, once for all passes.

    Attributes:
        projected: the text MLP's output `[B, L_text, C]`, or None.
        layers: keys and values `[B, L_text, H, D]` of the text by layer, None where unknown.
    """

    def __init__(self, layers: int) -> None:
        self._embeds: Tensor | None = None
        self._version = 0
        self.projected: Tensor | None = None
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def take(self, prompt_embeds: Tensor) -> None:
        """Make `prompt_embeds` `[B, L_text, C_text]` the prompt; forget what belongs to another."""
        version = _version(prompt_embeds)
        if prompt_embeds is not self._embeds or version != self._version:
            self._embeds, self._version = prompt_embeds, version
            self.projected, self.layers = None, [None] * len(self.layers)


@lru_cache(maxsize=256)
def passes(kind: PassKind, step: int, steps: int | None, layers: int) -> tuple[Pass, ...]:
    """A pass as each layer sees it."""
    return tuple(Pass(kind, step, steps, layer, layers) for layer in range(layers))


@dataclass(eq=False)
class Call:
    """One model call.

    Attributes:
        policy: decides what the caches keep and show.
        passes: what the call is for, as each layer sees it.
        frames: latent frames in the chunk (F).
        index: which frames of the video they are, int64 `[B or 1, F]`.
        rope: rotary embedding of the token grid.
        caches: one a layer.
        prompt: what is known of the prompt.
        backend: attention backend of diffusers' dispatcher; None: the layer's own.
        discarding: whether nothing behind the last layer's commit is needed.
        compiled: whether the blocks' own arithmetic is compiled.
        finished: whether the model has come to its end.
        reached: number of the latest layer that has attended; -1 for none.
    """

    policy: Policy
    passes: tuple[Pass, ...]
    frames: int
    index: Tensor
    rope: Rope
    caches: list[Bank]
    prompt: PromptMemory
    backend: str | None = None
    discarding: bool = False
    compiled: bool = False
    finished: bool = False
    reached: int = -1

    def discards(self, layer: int) -> bool:
        """Whether the attention of `layer` has nothing more to do than to commit."""
        return self.discarding and layer == len(self.caches) - 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, backend: str | None = None
    ) -> Tensor | None:
        """Write to the cache of `layer` and attend to it; all `[B, L, H, D]`, unrotated.

        Args:
            layer: number of the block.
            query: of the chunk, as are `key` and `value`; with all heads, and of this process's
                share of the tokens where it has but a share of the heads.
            key: see `query`.
            value: see `query`.
            backend: the layer's attention backend, unless the session names one.

        Returns:
            The attention output, or None if it is not needed.
        """
        self.reached = layer
        bank = self.caches[layer]
        tokens = bank.heads.to_heads(query, key, value)
        about: dict[str, Any] = {"frames": self.frames, "index": self.index, "rope": self.rope}
        if self.discards(layer):
            remember(bank, self.policy, self.passes[layer], *tokens, **about)
            return None
        about["backend"] = self.backend or backend
        return bank.heads.to_tokens(attend(bank, self.policy, self.passes[layer], *tokens, **about))

    def projected_text(self, project: Callable[[Tensor], Tensor], prompt_embeds: Tensor) -> Tensor:
        """The text MLP's output `[B, L_text, C]`, computed by `project` once a prompt."""
        if self.prompt.projected is None:
            self.prompt.projected = project(prompt_embeds)
        return self.prompt.projected

    def text(
        self, layer: int, project: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, L_text, H, D]` of the text, computed by `project` once a prompt."""
        known = self.prompt.layers[layer]
        if known is None:
            known = self.prompt.layers[layer] = project()
            bank = self.caches[layer]
            bank.text = bank.heads.own(known[0])
        return known

    def begin(self) -> None:
        """Make this the call in progress."""
        _current.set(self)

    def leave(self) -> None:
        """This is the call in progress no longer, be it finished or not."""
        if _current.get() is self:
            _current.set(None)


class Caller(Protocol):
    """Who expects calls of a model: a session with a pass open."""

    @property
    def place(self) -> int:
        """Number of the model."""

    def begin_call(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> None:
        """Check a call and make it the call in progress."""


_expecting: ContextVar[tuple[Caller, ...]] = ContextVar("tethercache_expecting", default=())


@contextmanager
def expecting(caller: Caller) -> Iterator[None]:
    """Let model calls inside the `with` block, in this thread, go to `caller`."""
    _expecting.set((*_expecting.get(), caller))
    try:
        yield
    finally:
        _expecting.set(tuple(other for other in _expecting.get() if other is not caller))


def begin_call(place: int, latents: Tensor, prompt_embeds: Tensor) -> None:
    """Let a model call begin, for the caller that expects it; the latest if there are several.

    Args:
        place: number of the model.
        latents: `[B, C, F, h, w]`.
        prompt_embeds: `[B, L_text, C_text]`.

    Raises:
        SessionError: if none expects a call of this model here, or not this one.
        ValueError: if the caller finds other sizes than were declared.
    """
    for caller in reversed(_expecting.get()):
        if caller.place == place:
            return caller.begin_call(latents, prompt_embeds)
    raise SessionError(
        "the attached transformer was called outside a pass; use `with session.chunk(n):` and in "
        "it `session.denoising_pass()` or `session.context_pass()`, in the thread of the call"
    )


_current: ContextVar[Call | None] = ContextVar("tethercache_call", default=None)


def current_call() -> Call:
    """The model call in progress.

    Raises:
        SessionError: if there is none.
    """
    call = _current.get()
    if call is None:
        raise SessionError(
            "a part of the attached transformer was called outside a call of the whole; call the "
            "transformer itself, in the thread that declared the pass"
        )
    return call


def finish_call() -> None:
    """Note that the model has come to the end of the call in progress."""
    call = current_call()
    call.finished = True
    call.leave()


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place, where torch counts that."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return 0
    return tensor._version
