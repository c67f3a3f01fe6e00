"""Narrow reads: what wrappers share that let some passes see fewer frames than there are.

Frames are told apart by their rank in time among the readable ones: the first S are the sink, the
newest ones are near, the chunk in progress among them, and what is between is memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tethercache.arguments import number, whole_number
from tethercache.cache import Bank, Pass, View, Wrapper


@dataclass(frozen=True)
class Narrow(Wrapper):
    """A wrapper that knows which frames are near.

    Args:
        of: the policy inside.
        newest: latent frames that are near, the chunk included; 0: as many as that policy keeps
            recent (4 under TetherCache, 18 under a sink of 3 in a window of 21).
    """

    newest: int = 0

    def __post_init__(self) -> None:
        whole_number("newest", self.newest, least=0)

    def check_chunk(self, committed: int, frames: int) -> None:
        """A pass must see its own chunk whole."""
        if self.near < frames:
            raise ValueError(f"`newest` ({self.near}) must be at least the chunk ({frames})")
        self.of.check_chunk(committed, frames)

    @property
    def near(self) -> int:
        """How many frames are near."""
        return self.newest or self.of.recent_size


@dataclass(frozen=True)
class Banded(Narrow):
    """A wrapper that acts in a band of denoising steps and of layers.

    Args:
        of: the policy inside.
        newest: see `Narrow`.
        first_step: first denoising step of the band, from 0; negative ones count from the end: -1
            is the last.
        last_step: last such step.
        first_layer: where its layers begin, as a share of the depth.
        last_layer: where they end.

    Where the caller does not say how many steps a chunk has, no step is known to be near its end:
    a negative `first_step` is never reached, a negative `last_step` not passed.
    """

    first_step: int = 0
    last_step: int = -1
    first_layer: float = 0.0
    last_layer: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("first_step", self.first_step)
        whole_number("last_step", self.last_step)
        number("first_layer", self.first_layer, least=0, most=1)
        number("last_layer", self.last_layer, least=0, most=1)

    def in_layers(self, pass_: Pass) -> bool:
        """Whether the layer belongs to the band."""
        return self.first_layer <= pass_.layer / pass_.layers < self.last_layer

    def in_steps(self, pass_: Pass) -> bool:
        """Whether a denoising pass belongs to the band."""
        first, last = self.first_step, self.last_step
        if pass_.steps is not None:
            first, last = (n + pass_.steps if n < 0 else n for n in (first, last))
            return first <= pass_.step <= last
        return 0 <= first <= pass_.step and (pass_.step <= last or last < 0)


def newest_of(view: View, bank: Bank, n: int) -> View:
    """The n newest frames of what a view shows; the view itself where it shows no more."""
    shown = bank.readable if view.slots is None else len(view.slots)
    return view if n >= shown else replace(view, slots=bank.newest(n, among=view.slots))


def without(bank: Bank, view: View, start: int, stop: int) -> View:
    """A view without the readable frames of rank `start..stop-1` in time.

    A view of which nothing would be left stays as it is.
    """
    if start >= stop:
        return view
    order = bank.newest(bank.readable)
    if view.slots is None:
        return replace(view, slots=order[:start] + order[stop:])
    # how many of them the view shows may differ by sample, so they are masked
    hidden = torch.zeros_like(order.index, dtype=torch.bool)
    return masked(bank, view, hidden.scatter(1, order.index[:, start:stop], True))


def masked(bank: Bank, view: View, hidden: Tensor) -> View:
    """A view in which the readable slots `hidden`, bool `[B, readable]`, are masked by a bias.

    A view of which nothing would be left stays as it is: attention to nothing is no number.
    """
    left = bank.live(bank.slots(0, bank.readable)) & ~hidden
    if view.bias is not None:
        whole = view.bias[(None,) * (4 - view.bias.dim())]
        left = left & (whole > -torch.inf).any(dim=3).any(dim=1)
    if view.slots is not None:
        left = left.gather(1, view.slots.index)
    hidden = hidden & left.any(dim=1, keepdim=True)
    bias = torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)
    bias = bias[:, None, :, None]
    return replace(view, bias=bias if view.bias is None else view.bias + bias)
