r"""EMA sink: the frames that leave the window are merged into the sink.

Source: Reward Forcing's sink, training-free here. With relative positions and a sink of S frames,
every frame that leaves is absorbed by the sink frame whose turn it is, keys and values alike,
unrotated and token by token:

.. math:: \mathrm{sink} \leftarrow \alpha\,\mathrm{sink} + (1 - \alpha)\,\mathrm{leaving}

Deviation: there, as many frames leave at a time as the sink has. Here i frames have left before
frame i leaves, and the sink frame `i mod S` absorbs it, which is the same for equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tethercache.arguments import number, whole_number
from tethercache.cache import Bank, Slots
from tethercache.policies.window import Window


@dataclass(frozen=True)
class EmaSink(Window):
    """A window whose sink is a moving average of what has left it.

    Args:
        sink: S, latent frames at the start that absorb others, at least 1.
        window: K, latent frames that attention reads, sink and current chunk included.
        positions: see `Window`.
        alpha: share of a sink frame that stays when it absorbs another, in [0, 1].
    """

    sink: int = 3
    window: int = 9
    alpha: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("sink", self.sink, least=1)
        number("alpha", self.alpha, least=0, most=1)

    @property
    def needs_statistics(self) -> bool:
        """Turns decide, and nothing else."""
        return False

    def leave(self, bank: Bank, frames: Slots) -> None:
        """Let the sink absorb the frames, each frame the sink frame whose turn it is."""
        device = frames.index.device
        left = bank.notes.get("left", torch.zeros((), dtype=torch.int64, device=device))
        for start in range(0, len(frames), self.sink):
            leaving = frames[start : start + self.sink]
            turn = (left + torch.arange(len(leaving), device=device)) % self.sink
            sink = Slots(turn.expand(len(leaving.index), -1), range(self.sink))
            bank.merge(sink, leaving, self.alpha)
            left = left + len(leaving)
        bank.notes["left"] = left
