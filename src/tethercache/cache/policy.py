"""The contract between a cache and the policy that decides what it remembers.

A policy is a frozen dataclass: its fields are its configuration, its command-line spec and the
record of a run. It keeps no state and sees no model: everything it may look at or change is a
`LayerCache`. For every chunk of latent frames it is asked, layer by layer:

1. `make_room`, before the first pass: which slots the new frames take, and what becomes of the
   frames that were there;
2. `settle`, in the context pass and before its attention: what becomes of frames that it set aside,
   given the queries of the clean chunk;
3. `read`, for every pass: where in time each readable frame stands, which of them are seen, and
   with which additive bias.

The methods run inside the transformer's forward pass: they use fixed shapes and never wait for the
device (no `.item()`, no `bool(tensor)`). What depends on sizes alone is decided on host integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from tethercache.cache.layer_cache import LayerCache


class PassKind(Enum):
    """What a model call is for. It is declared by the caller, never inferred from a timestep."""

    DENOISING = "denoising"
    CONTEXT = "context"


@dataclass(frozen=True)
class Pass:
    """One model call on a chunk.

    Attributes:
        kind: denoising pass, or the context pass that commits the chunk.
        step: index of the denoising step; for the context pass the number of steps before it.
        first: whether this is the chunk's first call, so that the chunk needs room.
    """

    kind: PassKind
    step: int
    first: bool

    @property
    def commits(self) -> bool:
        """Whether this pass writes the clean chunk."""
        return self.kind is PassKind.CONTEXT


@dataclass(frozen=True)
class Room:
    """Where a new chunk goes.

    Attributes:
        slots: the slots of the chunk's frames `[B, chunk]`.
        moved: readable slots whose position changes by this, the chunk's own among them; None if no
            other frame moves.
    """

    slots: Tensor
    moved: range | None = None


@dataclass(frozen=True)
class Read:
    """How a pass reads the cache.

    Attributes:
        position: time position of every readable slot, int64 `[B, readable]`.
        visible: the slots that this pass sees `[B, F]`, the chunk's own among them; None for all.
        bias: number added to the attention logits of each readable slot `[B, readable]`, or None.
    """

    position: Tensor
    visible: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Policy(ABC):
    """Decides what a causal video transformer remembers. See the module docstring."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """K: the largest number of latent frames that attention reads, the chunk included."""

    @property
    @abstractmethod
    def sink_size(self) -> int:
        """S: the number of first frames that are never changed or dropped."""

    @property
    def needs_statistics(self) -> bool:
        """Whether the policy uses `LayerCache.stats`; else they are not taken."""
        return True

    def staging(self, chunk: int | None = None) -> int:
        """The number of staging slots the policy needs, in frames.

        Args:
            chunk: the largest chunk after the first; None: the largest that the policy serves.
        """
        return 0

    @abstractmethod
    def check_chunk(self, committed: int, frames: int) -> None:
        """Raise `ValueError` unless a chunk of `frames` can follow `committed` latent frames.

        Once the budget is full, the answer depends on `frames` alone.
        """

    @abstractmethod
    def make_room(self, cache: LayerCache, frames: int) -> Room:
        """Choose the slots of the next `frames` latent frames and set aside what leaves them."""

    def settle(self, cache: LayerCache, query: Tensor) -> range | None:
        """Decide about the frames set aside; returns the slots that may have changed, if any.

        Args:
            cache: the layer's cache; the clean chunk is already written and measured.
            query: unrotated queries of the context pass `[B, L, H, D]`.
        """
        return None

    @abstractmethod
    def read(self, cache: LayerCache, pass_: Pass) -> Read:
        """Say how `pass_` reads the cache."""
