"""Sliding window, with or without an attention sink: the baselines.

The newest frames stay, the oldest leaves when a new one needs its slot, and the first `sink` frames
never leave (StreamingLLM, arXiv 2309.17453, on latent frames). With `relative` positions the
readable frames stand at 0..n-1, so positions never exceed the trained window; with `absolute`
positions a frame keeps its global index, as in the original Self-Forcing code.

Deviations: none from that code with `absolute` positions (`tests/golden`, run_fifo_s3); from
StreamingLLM, that a frame of many tokens is kept or leaves as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from tethercache.arguments import one_of, whole_number
from tethercache.cache import Bank, Policy, Slots


@dataclass(frozen=True)
class Window(Policy):
    """FIFO (`sink=0`) or sink + FIFO.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that attention reads, sink and current chunk included.
        positions: `relative` (slot ranks) or `absolute` (global frame indices).
    """

    sink: int = 0
    window: int = 21
    positions: Literal["relative", "absolute"] = "relative"

    def __post_init__(self) -> None:
        whole_number("sink", self.sink, least=0)
        whole_number("window", self.window, least=1)
        if self.window <= self.sink:
            raise ValueError(f"`window` ({self.window}) must be larger than `sink` ({self.sink})")
        one_of("positions", self.positions, ("relative", "absolute"))

    @property
    def budget(self) -> int:
        """K, the window."""
        return self.window

    @property
    def sink_size(self) -> int:
        """S, the sink."""
        return self.sink

    @property
    def kept(self) -> int:
        """Slots, the first ones, whose frames do not leave for their age: here the sink's."""
        return self.sink

    @property
    def needs_statistics(self) -> bool:
        """Age alone decides."""
        return False

    def check_chunk(self, committed: int, frames: int) -> None:
        """What is kept and one whole chunk must fit into the window."""
        if self.kept + frames > self.window:
            rest = f" + {self.kept - self.sink}" if self.kept > self.sink else ""
            raise ValueError(
                f"`window` ({self.window}) must be at least `sink` ({self.sink}){rest} + chunk "
                f"({frames})"
            )

    def smaller(self, chunk: int) -> Iterator[Window]:
        """Shorter windows, as long as a chunk fits beside what is kept."""
        for window in range(self.window - chunk, self.kept + chunk - 1, -chunk):
            yield replace(self, window=window)

    def open(self, bank: Bank, frames: int) -> Slots:
        """Use free slots first, then those of the oldest frames behind the sink."""
        overflow = max(0, bank.readable + frames - self.window)
        if not overflow:
            return bank.take(frames)
        leaving = self.oldest(bank, overflow)
        self.leave(bank, leaving)
        return leaving + bank.take(frames - overflow)

    def oldest(self, bank: Bank, n: int) -> Slots:
        """The n frames that leave next, the oldest first."""
        return bank.oldest(n, since=self.kept)

    def leave(self, bank: Bank, frames: Slots) -> None:
        """What becomes of frames before their slots are overwritten: here nothing."""
        return

    def place(self, bank: Bank) -> Tensor:
        """Ranks in time, or global indices."""
        return bank.age() if self.positions == "relative" else bank.index()
