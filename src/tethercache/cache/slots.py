"""Slots of a bank: where frames lie, the same number of them for every sample.

Which slots they are may differ by sample and is known to the device alone. That they lie in a
certain range is known to the host, so that work on them has a fixed shape and never waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Some slots of a bank.

    Attributes:
        index: slot numbers, int64 `[B, n]`.
        span: a range in which all of them lie.
    """

    index: Tensor
    span: range

    def __len__(self) -> int:
        return self.index.shape[1]

    def __getitem__(self, part: slice) -> Slots:
        """Some of the slots; `part` is a slice of their order."""
        return Slots(self.index[:, part], self.span)

    def __add__(self, other: Slots) -> Slots:
        """These slots, then those of `other`."""
        return Slots(torch.cat((self.index, other.index), dim=1), union(self.span, other.span))


def union(one: range | None, other: range | None) -> range:
    """The shortest range that holds both; None is one without slots."""
    parts = [part for part in (one, other) if part]
    if not parts:
        return range(0)
    return range(min(part.start for part in parts), max(part.stop for part in parts))


def places(members: Tensor, hidden: Tensor, keep: Tensor) -> Tensor:
    """Where each hidden frame goes: to a dropped member's slot if it is kept, else it stays.

    The shape is fixed whatever the decision: the i-th admitted frame takes the i-th freed slot.

    Args:
        members: memory slots `[B, M]`.
        hidden: slots of hidden frames `[B, F]`.
        keep: decision over members, then hidden frames, bool `[B, M + F]`.

    Returns:
        Target slots `[B, F]`.
    """
    kept, admitted = keep.split((members.shape[1], hidden.shape[1]), dim=1)
    freed_first = members.gather(1, kept.to(torch.int8).argsort(dim=1, stable=True))
    turn = (admitted.cumsum(dim=1) - 1).clamp(min=0)
    return torch.where(admitted, freed_first.gather(1, turn), hidden)
