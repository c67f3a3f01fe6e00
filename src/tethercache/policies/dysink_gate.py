r"""DySink's gate: far frames that too many heads prefer are not seen.

Source: the gate of DySink, arXiv 2605.21028, a guard against sink collapse. For each far frame e of
a layer

.. math:: \rho_e = \mathrm{share\ of\ heads\ } h \mathrm{\ with\ }
          \langle \bar q_h, \bar k_{eh} \rangle >
          \mathrm{mean}_{j \in local} \langle \bar q_h, \bar k_{jh} \rangle

with means over tokens, unrotated. If any of them is above the threshold, this layer sees no far
frame in this pass. The means are known, so the gate itself costs next to nothing; the mask that it
sets does cost a little (`benchmarks/wrappers.py`).

Ours: it goes with any policy. Far are all frames, the sink's among them, but the newest that this
policy keeps for their age; local are these without the current chunk. It acts once the cache is
full. A read that would see nothing, such as that of `anchor`'s early frames alone, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tethercache.arguments import number
from tethercache.cache import Bank, Fused, Pass, Slots, View, Wrapper, each_view
from tethercache.policies.narrow import masked


@dataclass(frozen=True)
class DysinkGate(Wrapper):
    """Hide far frames from a layer and pass whose heads prefer one of them to what is near.

    Args:
        of: the policy inside.
        threshold: share of heads above which a frame is preferred by too many, in [0, 1].
    """

    threshold: float = 0.8

    def __post_init__(self) -> None:
        number("threshold", self.threshold, least=0, most=1)

    @property
    def needs_statistics(self) -> bool:
        """Mean keys are compared."""
        return True

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, without far frames where the gate closes."""
        seen, far = self.of.see(bank, pass_), bank.readable - self.recent_size
        order = bank.newest(bank.readable)
        local = order[far : bank.readable - len(bank.current)] if far > 0 else order[:0]
        if not self.filled(bank) or not len(local):
            return seen
        hidden = self._hidden(bank, order[:far], local)
        return each_view(seen, lambda view: masked(bank, view, hidden))

    def _hidden(self, bank: Bank, far: Slots, local: Slots) -> Tensor:
        """The far frames where the gate is closed, bool `[B, readable]`."""
        asked = self._asked(bank, far) > self._asked(bank, local).mean(dim=1, keepdim=True)
        share = asked.float().mean(dim=2)
        closed = ((share > self.threshold) & bank.live(far)).any(dim=1, keepdim=True)
        bank.tell("gate", far=far, share=share, closed=closed)
        hidden = torch.zeros_like(bank.frame_index[:, : bank.readable], dtype=torch.bool)
        return hidden.scatter(1, far.index, closed.expand_as(share))

    def _asked(self, bank: Bank, frames: Slots) -> Tensor:
        """Mean query times mean key of each frame and head, `[B, len(frames), H]`."""
        assert bank.query is not None
        keys = bank.stats.mean[0][bank.rows, frames.index]
        asked = (keys * bank.query.float().mean(dim=1)[:, None]).sum(dim=-1)
        return bank.heads.gather(asked, dim=-1)
