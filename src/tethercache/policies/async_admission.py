r"""Asynchronous admission: a memory changes a little at a time, and not in all layers at once.

Source: an outline of cache transitions in the field: a part of what is proposed comes in, the novel
first, staggered over layers, and at the latest after some time. The formulas are ours. When the
policy inside proposes p > 0 hidden frames for its memory, in the n-th such decision of layer l,

* nothing comes in unless it is the layer's turn, (n + l) mod `stagger` = 0, or nothing has come in
  for `patience` decisions;
* else max(1, floor(`share` p)) frames do, those of the greatest novelty: one minus the largest
  cosine between the frame's mean key and that of a member, all heads together, unrotated;
* of the members that the policy lets go, the oldest make room, forgotten ones before all.

Frames that are turned away are gone, as those are that the policy itself turns away. Pinned frames
always come in. A policy without recall is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tethercache.arguments import number, whole_number
from tethercache.cache import Bank, Slots, Wrapper


@dataclass(frozen=True)
class AsyncAdmission(Wrapper):
    """Let fewer frames into memory at a time than the policy inside would.

    Args:
        of: the policy inside.
        share: of the proposed frames, how many come in at most, in [0, 1]; at least one does.
        stagger: in how many turns the layers change.
        patience: decisions without change after which a layer need not wait for its turn.
    """

    share: float = 0.75
    stagger: int = 2
    patience: int = 4

    def __post_init__(self) -> None:
        number("share", self.share, least=0, most=1)
        whole_number("stagger", self.stagger, least=1)
        whole_number("patience", self.patience, least=0)

    @property
    def needs_statistics(self) -> bool:
        """Mean keys tell what is novel."""
        return True

    def open(self, bank: Bank, frames: int) -> Slots:
        """As the policy inside, with fewer admissions."""
        with self._screening(bank):
            return self.of.open(bank, frames)

    def commit(self, bank: Bank) -> None:
        """As the policy inside, with fewer admissions."""
        with self._screening(bank):
            self.of.commit(bank)

    @contextmanager
    def _screening(self, bank: Bank) -> Iterator[None]:
        outer = bank.screen

        def screen(members: Slots, hidden: Slots, keep: Tensor) -> Tensor:
            keep = self._fewer(bank, members, hidden, keep)
            return keep if outer is None else outer(members, hidden, keep)

        bank.screen = screen
        try:
            yield
        finally:
            bank.screen = outer

    def _fewer(self, bank: Bank, members: Slots, hidden: Slots, keep: Tensor) -> Tensor:
        zero = torch.zeros(len(keep), dtype=torch.int64, device=keep.device)
        decisions = bank.notes.get("async.decisions", zero)
        waited = bank.notes.get("async.waited", zero)
        stay, proposed = keep.split((len(members), len(hidden)), dim=1)
        number_proposed = proposed.sum(dim=1)
        limit = (number_proposed * self.share).floor().clamp(min=1)
        turn = ((decisions + bank.layer) % self.stagger == 0) | (waited >= self.patience)
        rank = _rank(-self._novelty(bank, members, hidden).masked_fill(~proposed, -torch.inf))
        admitted = proposed & ((rank < (limit * turn)[:, None]) | bank.pinned(hidden))
        age = bank.frame_index.gather(1, members.index)
        age = age.masked_fill(~bank.live(members), -1).masked_fill(stay, _LATER)
        leaving = ~stay & (_rank(age) < admitted.sum(dim=1, keepdim=True))
        bank.notes["async.decisions"] = decisions + 1
        bank.notes["async.waited"] = torch.where(admitted.any(dim=1), zero, waited + 1)
        bank.tell("admission", hidden=hidden, proposed=proposed, admitted=admitted)
        return torch.cat((~leaving, admitted), dim=1)

    def _novelty(self, bank: Bank, members: Slots, hidden: Slots) -> Tensor:
        """Of each hidden frame, `[B, len(hidden)]`."""
        keys = bank.stats.mean[0]
        there, new = (
            bank.heads.gather(keys[bank.rows, some.index]).flatten(2) for some in (members, hidden)
        )
        likeness = F.cosine_similarity(new[:, :, None], there[:, None], dim=3)
        return 1 - likeness.amax(dim=2)


def _rank(values: Tensor) -> Tensor:
    """Place of each value among those of its row, the smallest first."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)


_LATER = 1 << 40  # than any frame
