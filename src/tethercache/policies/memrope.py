r"""MemRoPE: what leaves the window goes on in two running means, a slow and a fast one.

Source: MemRoPE's default rule. Behind the sink stand a long-term and a short-term frame. When
frames leave, the mean m over all their tokens is taken, one vector a head, keys (unrotated) and
values alike, and

.. math:: L \leftarrow (1 - \alpha_L)\,L + \alpha_L\,m, \qquad
          S \leftarrow (1 - \alpha_S)\,S + \alpha_S\,m

for every token of both frames. The first m is what both begin with. All frames stand at 0..n-1.

Deviation: until the window is full, ordinary frames stand in the places of L and S; they are part
of the first m. The motion-adaptive variant is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tethercache.arguments import number
from tethercache.cache import Bank, Cut, Event, Slots
from tethercache.policies.window import Window


@dataclass(frozen=True)
class MemRope(Window):
    """Sink, two running means of what has left, and the newest frames.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that attention reads: sink, the two means, and the newest ones,
            the current chunk included.
        positions: see `Window`.
        long: share of what leaves in the long-term mean, in [0, 1].
        short: share of what leaves in the short-term mean, in [0, 1].
    """

    sink: int = 3
    window: int = 12
    long: float = 0.01
    short: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("long", self.long, least=0, most=1)
        number("short", self.short, least=0, most=1)

    @property
    def kept(self) -> int:
        """The sink's slots and those of the two means."""
        return self.sink + 2

    @property
    def recent_size(self) -> int:
        """The newest frames."""
        return self.window - self.kept

    @property
    def needs_statistics(self) -> bool:
        """The means of leaving frames are known."""
        return True

    def leave(self, bank: Bank, frames: Slots) -> None:
        """Let both means absorb the frames."""
        means = bank.slots(self.sink, self.kept)
        begun = "memrope.begun" in bank.notes
        leaving = frames if begun else means + frames
        live = bank.live(leaving)
        share = live.float() / live.sum(dim=1, keepdim=True).clamp(min=1)
        mean = bank.stats.mean[:, bank.rows, leaving.index]
        mean = (mean * share[..., None, None]).sum(dim=2)[:, :, None, None]
        stays = [1 - self.long, 1 - self.short] if begun else [0.0, 0.0]
        weight = torch.tensor(stays, device=share.device).expand(len(share), -1)
        untouched = bank.pinned(means) | ~live.any(dim=1, keepdim=True)
        bank.blend(means, mean, weight.masked_fill(untouched, 1))
        bank.notes["memrope.begun"] = torch.ones((), device=share.device)

    def on(self, bank: Bank, event: Event) -> None:
        """Begin anew behind a cut; see `Policy.on` for the rest."""
        super().on(bank, event)
        if isinstance(event, Cut):
            bank.notes.pop("memrope.begun", None)
