"""Sink, memory and recent frames: what hides and recalls, whatever decides who is recalled.

Until K = sink + memory + recent frames are there, frames are appended; then the first are the sink,
the next the memory, the newest the recent region. From then on the frames that a new chunk pushes
out of the recent region are set aside: the denoising passes do not see them. In the context pass,
before its attention, they compete with the memory for its places, and those that win are written
over the members that lost. Readable frames stand at positions 0..K-1 in time order, so positions
never leave the trained window.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.cache import Bank, FrameStats, Policy, Slots
from tethercache.policies import tame

Self = TypeVar("Self", bound="Recall")


@dataclass(frozen=True)
class Recall(Policy):
    """Sink, memory and recent regions. What inherits says who is recalled.

    Args:
        sink: S, first latent frames, kept unchanged.
        memory: M, long-range latent frames that were recalled.
        recent: R, newest latent frames, the current chunk included; at least a chunk.
    """

    sink: int = 3
    memory: int = 14
    recent: int = 4

    def __post_init__(self) -> None:
        whole_number("sink", self.sink, least=0)
        whole_number("memory", self.memory, least=0)
        whole_number("recent", self.recent, least=1)

    @abstractmethod
    def choose(self, bank: Bank, candidates: Slots) -> Tensor:
        """Who stays of members, then hidden frames: M of them, bool `[B, len(candidates)]`."""

    @property
    def strength(self) -> float:
        """How strongly recalled frames are aligned with trusted ones (TAME), in [0, 1]."""
        return 0.0

    @property
    def budget(self) -> int:
        """K = sink + memory + recent."""
        return self.sink + self.memory + self.recent

    @property
    def sink_size(self) -> int:
        """S, the sink."""
        return self.sink

    @property
    def recent_size(self) -> int:
        """R, the newest frames."""
        return self.recent

    def reserve(self, chunk: int | None = None) -> int:
        """A chunk's worth of frames is hidden between its first pass and its context pass."""
        return (self.recent if chunk is None else min(chunk, self.recent)) if self.memory else 0

    def check_chunk(self, committed: int, frames: int) -> None:
        """The recent region must hold a chunk, and whole chunks must fill the budget exactly."""
        if committed and frames > self.recent:
            raise ValueError(f"`recent` ({self.recent}) must be at least the chunk ({frames})")
        if committed < self.budget < committed + frames:
            raise ValueError(
                f"sink + memory + recent ({self.sink} + {self.memory} + {self.recent} = "
                f"{self.budget}) must be reached by whole chunks: after {committed} latent frames "
                f"the next chunk of {frames} crosses it; a budget of {committed} or "
                f"{committed + frames} would do"
            )

    def smaller(self: Self, chunk: int) -> Iterator[Self]:
        """Smaller memories."""
        for memory in range(self.memory - chunk, 0, -chunk):
            yield replace(self, memory=memory)

    def open(self, bank: Bank, frames: int) -> Slots:
        """Append while there is room; then hide the oldest recent frames and take their slots."""
        overflow = bank.readable + frames - self.budget
        if overflow <= 0:
            return bank.take(frames)
        # a pinned frame may leave here: it is sure to be recalled
        leaving = bank.oldest(overflow, since=self.sink + self.memory, spare_pinned=not self.memory)
        if self.memory:
            bank.hide(leaving)
        # behind a cut, whole chunks need not fill the budget exactly
        return leaving if bank.full else leaving + bank.take(frames - overflow)

    def commit(self, bank: Bank) -> None:
        """Let the hidden frames compete with the memory; write the winners over the losers."""
        if not bank.hidden:
            return
        members, hidden = bank.slots(self.sink, self.sink + self.memory), bank.waiting()
        trusted = tame.pool(bank.stats.between(0, self.sink + self.memory))

        def edit(frames: Tensor, own: FrameStats) -> tuple[Tensor, FrameStats]:
            return tame.align(frames, own, trusted, self.strength)

        keep = self.choose(bank, members + hidden)
        bank.recall(members, hidden, keep, edit if self.strength else None)
        bank.release()
