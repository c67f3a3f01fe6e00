r"""Relax Forcing: few frames are read, one of them chosen from a large store of the past.

Source: Relax Forcing. Frames that leave the window are stored, the newest 120 of them. For each
chunk a few candidates, evenly spaced over the later half of the store, compete for one place of
history between sink and newest frames, by

.. math:: \cos(k_j, k_{sink}) - \lambda \cos(k_j, k_{tail})

in the first layer; the best serves all layers and passes. Sink and history stand right before the
newest frames, which is what `relative` positions do.

Ours, as the source is silent: k is the mean key of a frame over its tokens, all heads together,
unrotated; that of the sink is the mean over its frames; the tail is the frame before the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tethercache.arguments import number, whole_number
from tethercache.cache import Bank, Slots
from tethercache.policies.window import Window


@dataclass(frozen=True)
class Relax(Window):
    """Sink, one stored frame of the past, and the newest frames.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever, at least 1.
        window: K, latent frames that attention reads: sink, one of history, and the newest ones,
            the current chunk included.
        positions: see `Window`.
        stored: frames of the past that are kept to choose from.
        candidates: how many of them compete for a chunk.
        penalty: lambda, weight of the likeness to what is read anyway, >= 0.
    """

    sink: int = 2
    window: int = 7
    stored: int = 120
    candidates: int = 4
    penalty: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("sink", self.sink, least=1)
        whole_number("stored", self.stored, least=self.window)
        whole_number("candidates", self.candidates, least=1)
        number("penalty", self.penalty, least=0)

    @property
    def kept(self) -> int:
        """The slots of sink and history."""
        return self.sink + 1

    @property
    def recent_size(self) -> int:
        """The newest frames."""
        return self.window - self.kept

    @property
    def needs_statistics(self) -> bool:
        """Mean keys are compared."""
        return True

    def reserve(self, chunk: int | None = None) -> int:
        """The store."""
        return self.stored

    def leave(self, bank: Bank, frames: Slots) -> None:
        """Store them, and choose what of the store is read."""
        place = bank.slots(self.sink, self.kept)
        self._store(bank, frames if bank.hidden else place + frames)
        if bank.layer == 0:
            bank.shared[_CHOSEN] = self._best(bank)
        bank.copy(Slots(bank.shared[_CHOSEN], bank.waiting().span), place)

    def _store(self, bank: Bank, frames: Slots) -> None:
        room = self.stored - bank.hidden
        if room:
            bank.hide(frames[:room])
        if len(frames) > room:
            late = frames[room:]
            bank.copy(late, bank.oldest(len(late), among=bank.waiting()))

    def _best(self, bank: Bank) -> Tensor:
        """The slot of the best stored frame, `[B, 1]`."""
        stored = bank.oldest(bank.hidden, among=bank.waiting(), spare_pinned=False)
        keys = bank.stats.mean[0]
        compared = (
            keys[:, : self.sink].mean(dim=1, keepdim=True),
            keys[bank.rows, bank.newest(1).index],
            keys[bank.rows, stored.index],
        )
        sink, tail, own = (bank.heads.gather(some).flatten(2) for some in compared)
        likeness = F.cosine_similarity(own, sink, dim=2), F.cosine_similarity(own, tail, dim=2)
        score = likeness[0] - self.penalty * likeness[1]
        allowed = torch.zeros(len(stored), dtype=torch.bool, device=score.device)
        allowed[self._candidates(len(stored))] = True
        score = bank.prefer(score.where(allowed, -_FAR), stored)
        best = score.argmax(dim=1, keepdim=True)
        index = bank.frame_index.gather(1, stored.index)
        keep = torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)
        bank.tell("recall", index=index, score=score, keep=keep)
        return stored.index.gather(1, best)

    def _candidates(self, stored: int) -> list[int]:
        """Which of the stored frames compete, in the order of time."""
        first, last = stored // 2, stored - 1
        between = max(1, self.candidates - 1)
        return sorted({first + (last - first) * i // between for i in range(self.candidates)})


_CHOSEN = "relax.chosen"
_FAR = 1e9  # worse than any score
