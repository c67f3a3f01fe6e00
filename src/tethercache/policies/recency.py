r"""Recency: denoising passes lean towards the near past, more so in the first steps.

Source: the training-free rule of Recency Forcing. In denoising step t = 1, 2, ... a number is added
to the attention logits of history, by its distance d in chunks from the current one:

.. math:: b = -\beta\,\delta^{\gamma}, \qquad \delta = \min(1, (d - 1) / 4), \qquad
          \gamma = \gamma_0\, 2^t

Sink, current chunk (d = 0) and the chunk before it (d = 1) get none, nor does the context pass. The
card's method is `sink + recency`; here the rule goes with any policy.

Deviations: frames that were recalled count by their own age, so a memory mostly gets the whole of
-beta. Where chunks differ in size, that of the current one measures distances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tethercache.arguments import number, positive
from tethercache.cache import Bank, Fused, Pass, View, Wrapper, each_view


@dataclass(frozen=True)
class Recency(Wrapper):
    """Add a bias against old frames to the logits of denoising passes.

    Args:
        of: the policy inside.
        beta: the bias of frames that are 5 chunks old or older, >= 0.
        gamma: exponent before the first step; it doubles with every step, > 0.
    """

    beta: float = 4.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        number("beta", self.beta, least=0)
        positive("gamma", self.gamma)

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, with the bias."""
        seen = self.of.see(bank, pass_)
        if pass_.commits:
            return seen
        bias = self._bias(bank, pass_.step + 1)
        return each_view(seen, lambda view: replace(view, bias=_sum(view.bias, bias)))

    def _bias(self, bank: Bank, t: int) -> Tensor:
        """By frame, `[B, 1, readable, 1]`."""
        first = bank.frame_index.gather(1, bank.current.index).amin(dim=1, keepdim=True)
        behind = (first - bank.frame_index[:, : bank.readable]).clamp(min=0)
        size = len(bank.current)
        distance = (behind + size - 1) // size
        delta = ((distance - 1) / 4).clamp(min=0, max=1)
        bias: Tensor = -self.beta * delta ** (self.gamma * 2**t)
        bias[:, : self.sink_size] = 0
        return bias[:, None, :, None]


def _sum(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else torch.add(one, other)
