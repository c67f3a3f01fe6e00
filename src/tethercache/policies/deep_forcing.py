r"""Deep Forcing: a deep sink, and the tokens of the middle that the newest frames ask for.

Source: Deep Forcing. When the window is full, it is compressed before the next chunk: the sink and
the newest R frames stay whole, and of what is between them the best tokens, as many as fill
N - S - R frames, by

.. math:: \varphi_j = \sum_h \sum_{q \,\in\, \text{last R frames}} \langle q_h, k_{jh} \rangle

one score a token and layer. Tokens keep their row and column and the order of time. Its shift of
the sink and of the chosen tokens, so that all stand next to each other in time, is what `relative`
positions do.

Deviations: queries and keys are compared unrotated, and the queries are those of the context passes
of the last R frames, which are the clean ones (there, of the frames in the window).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Cut, Event, Slots
from tethercache.policies.window import Window


@dataclass(frozen=True)
class DeepForcing(Window):
    """Sink, best tokens of the middle, and the newest frames.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that attention reads, the current chunk included.
        positions: see `Window`.
        compressed: N, frames to which a full window is compressed before a chunk.
        recent: R, newest latent frames that stay whole, and whose queries choose.
    """

    sink: int = 10
    window: int = 21
    compressed: int = 16
    recent: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("recent", self.recent, least=1)
        whole_number("compressed", self.compressed, least=self.sink + self.recent)

    def check_chunk(self, committed: int, frames: int) -> None:
        """A chunk must find room in the compressed window."""
        if frames + (self.compressed if committed else 0) > self.window:
            raise ValueError(
                f"`window` ({self.window}) must be at least `compressed` ({self.compressed}) + "
                f"chunk ({frames})"
            )

    def smaller(self, chunk: int) -> Iterator[DeepForcing]:
        """Smaller windows, with as much compressed, as long as sink and newest frames fit."""
        fits = range(self.window - chunk, 0, -chunk)
        for window in fits:
            compressed = self.compressed - (self.window - window)
            if compressed < self.sink + self.recent:
                return
            yield replace(self, window=window, compressed=compressed)

    def open(self, bank: Bank, frames: int) -> Slots:
        """Use free slots; where there are too few, compress, and use those that become free."""
        if bank.readable + frames <= self.window:
            return bank.take(frames)
        bank.notes[_BEGUN] = torch.ones((), device=bank.frame_index.device)
        middle = bank.oldest(
            bank.readable - self.sink - self.recent, since=self.sink, spare_pinned=False
        )
        chosen = middle[: self.compressed - self.sink - self.recent]
        if len(chosen):
            bank.pack(middle, self._score(bank, middle), chosen)
        free = middle[len(chosen) :]
        if len(free) <= frames:
            return free + bank.take(frames - len(free))
        newest = bank.newest(self.recent)
        bank.keep(bank.slots(0, self.sink) + chosen + newest)
        return bank.take(frames)

    def filled(self, bank: Bank) -> bool:
        """Compressed windows are not full again."""
        return bank.full or _BEGUN in bank.notes

    def on(self, bank: Bank, event: Event) -> None:
        """Begin anew behind a cut; see `Policy.on` for the rest."""
        super().on(bank, event)
        if isinstance(event, Cut):
            bank.notes.pop(_BEGUN, None)

    def commit(self, bank: Bank) -> None:
        """Remember what the newest R frames ask for, as the mean query of each."""
        assert bank.query is not None
        asked = bank.query.float().unflatten(1, (len(bank.current), -1)).mean(dim=2)
        before = bank.notes.get(_QUERIES, asked[:, :0])
        bank.notes[_QUERIES] = torch.cat((before, asked), dim=1)[:, -self.recent :].contiguous()

    def _score(self, bank: Bank, frames: Slots) -> Tensor:
        """Of each token of `frames`, `[B, len(frames) * T]`."""
        if _QUERIES in bank.notes:
            asked = bank.notes[_QUERIES].mean(dim=1)
        else:  # another policy has made what is here: the newest keys stand in
            asked = bank.key[bank.rows, bank.newest(self.recent).index].float().mean(dim=(1, 2))
        parts = []
        for (some,) in bank.in_groups(frames.index):
            keys = bank.key[bank.rows, some].float()
            parts.append((keys * asked[:, None, None]).sum(dim=(3, 4)))
        score = bank.heads.total(torch.cat(parts, dim=1))  # [B, F, T]
        marks = bank.prefer(torch.zeros_like(score[..., 0]), frames)
        return (score + marks[..., None]).flatten(1)


_BEGUN = "deep-forcing.begun"
_QUERIES = "deep-forcing.queries"
