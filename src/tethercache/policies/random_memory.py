"""Random memory: TetherCache whose memory is chosen by chance. The control for GRAB.

All is as in `policies/recall.py`; a candidate's score is a number in [0, 1) that a counter-based
generator makes of the seed, the layer, the frame's index and, where lots are drawn anew, the index
of the chunk's newest frame. So it is the same on every device and after a resume, whatever else was
drawn. All samples of a batch draw the same lots, as a sample must not depend on its neighbours.
(Ours; no source.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tethercache.arguments import number, one_of, whole_number
from tethercache.cache import Bank, Slots
from tethercache.policies import grab
from tethercache.policies.recall import Recall


@dataclass(frozen=True)
class RandomMemory(Recall):
    """Sink, memory and recent regions; recall by chance; trusted alignment.

    Args:
        sink: S, first latent frames, kept unchanged.
        memory: M, older latent frames chosen by chance.
        recent: R, newest latent frames, the current chunk included; at least a chunk.
        tau: strength of the alignment of admitted frames (TAME), in [0, 1].
        seed: of the lots, from 0 to 2^32 - 1.
        draw: `anew` in every context pass, so that members die out; or `once` a frame, so that the
            memory is a sample of the whole past, each frame of it as likely as any other.
    """

    tau: float = 0.35
    seed: int = 0
    draw: Literal["anew", "once"] = "anew"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("tau", self.tau, least=0, most=1)
        whole_number("seed", self.seed, least=0, most=2**32 - 1)
        one_of("draw", self.draw, ("anew", "once"))

    @property
    def strength(self) -> float:
        """Tau."""
        return self.tau

    def choose(self, bank: Bank, candidates: Slots) -> Tensor:
        """Those with the highest numbers."""
        index = bank.frame_index.gather(1, candidates.index)
        counter = torch.full_like(index[:, :1], _mixed(self.seed) + bank.layer)
        if self.draw == "anew":
            newest = bank.frame_index.gather(1, bank.current.index).amax(dim=1, keepdim=True)
            counter = _mix(counter) + newest
        score = lots(index, counter)
        keep = grab.keep_best(bank.prefer(score, candidates), self.memory)
        bank.tell("recall", index=index, score=score, keep=keep)
        return keep


def lots(index: Tensor, counter: Tensor) -> Tensor:
    """Numbers in [0, 1), float32, evenly spread: one of each pair of whole numbers."""
    return (_mix(_mix(counter) + index) >> 8).float() / 2**24


def _mixed(number: int) -> int:
    return int(_mix(torch.tensor(number)).item())


def _mix(number: Tensor) -> Tensor:
    """A whole number from 0 to 2^32 - 1 that looks unlike the given one (lowbias32)."""
    number = number & _MASK
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & _MASK
    number = ((number ^ (number >> 15)) * 0x846CA68B) & _MASK
    return number ^ (number >> 16)


_MASK = 2**32 - 1
