r"""Rolling Sink: history is the opening, played to and fro.

Source: Rolling Sink. The first P frames are kept as they were committed. Once the window moves,
every context pass overwrites the chunk before the current one: the frame of it that is the t-th to
be overwritten takes keys and values of the opening's frame

.. math:: u(t) = \begin{cases} t' & t' < P \\ 2P - 1 - t' & \text{else} \end{cases},
          \qquad t' = t \bmod 2P

and keeps its own place in time. So only the current chunk is real, and what it reads never drifts.

Deviations: the opening is the frames that are the first when the window begins to move, be it at
the start or behind a cut. Pinned frames are not overwritten, and forgotten ones are not played. No
table of positions has to grow, as angles are computed. `relative` positions give the same
differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Cut, Event, Slots
from tethercache.policies.window import Window


@dataclass(frozen=True)
class RollingSink(Window):
    """A window whose history is replaced by the opening of the video.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever besides.
        window: K, latent frames that attention reads, current chunk included.
        positions: see `Window`.
        opening: P, first frames that are played, at least 1. They are kept beside the window.
    """

    positions: Literal["relative", "absolute"] = "absolute"
    opening: int = 18

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("opening", self.opening, least=1)

    def reserve(self, chunk: int | None = None) -> int:
        """The opening."""
        return self.opening

    def leave(self, bank: Bank, frames: Slots) -> None:
        """Keep the opening before the first of it leaves."""
        if not bank.hidden:
            first = min(self.opening, bank.readable)
            bank.hide(bank.oldest(first, spare_pinned=False))

    def commit(self, bank: Bank) -> None:
        """Overwrite the chunk before the current one."""
        if not bank.hidden:
            return
        size = len(bank.current)
        moving = bank.slots(self.kept, bank.readable)
        before = bank.newest(2 * size, among=moving)[:-size]
        if not len(before):
            return
        device = before.index.device
        played = bank.notes.get(_PLAYED, torch.zeros((), dtype=torch.int64, device=device))
        turn = (played + torch.arange(len(before), device=device)) % (2 * bank.hidden)
        place = self.budget + torch.minimum(turn, 2 * bank.hidden - 1 - turn)
        source = Slots(place.expand_as(before.index), bank.waiting().span)
        stays = bank.pinned(before) | ~bank.live(source)
        bank.blend(before, bank.frames[:, bank.rows, source.index], stays.float())
        bank.notes[_PLAYED] = played + len(before)

    def on(self, bank: Bank, event: Event) -> None:
        """Begin anew behind a cut; see `Policy.on` for the rest."""
        super().on(bank, event)
        if isinstance(event, Cut):
            bank.notes.pop(_PLAYED, None)


_PLAYED = "rolling-sink.played"
