"""Banks of toy frames, for decisions that are computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tethercache.cache import Bank, Pass, PassKind, Policy, View

TOKENS, CHANNELS = 2, 6
CONTEXT = Pass(PassKind.CONTEXT, step=4)
DENOISING = Pass(PassKind.DENOISING, step=3)


def constant(index: int) -> Tensor:
    """A frame that holds its own index everywhere."""
    return torch.full((TOKENS, 1, CHANNELS), float(index))


def fill(
    policy: Policy,
    *chunks: int,
    bank: Bank | None = None,
    frame: Callable[[int], Tensor] = constant,
) -> Bank:
    """Commit chunks whose keys and values are `frame(index)` `[T, 1, D]`; queries are ones."""
    bank = bank or Bank(policy.budget, policy.reserve(max(chunks)))
    bank.allocate(torch.zeros(1, 1, TOKENS, 1, CHANNELS))
    for frames in chunks:
        newest = bank.frame_index.amax(dim=1, keepdim=True)
        index = newest + torch.arange(1, frames + 1)
        bank.begin(policy.open(bank, frames), index)
        numbers = torch.stack([frame(i) for i in index[0].tolist()])[None]
        bank.write(numbers, numbers)
        bank.measure()
        bank.query = torch.ones(1, frames * TOKENS, 1, CHANNELS)
        policy.commit(bank)
        bank.query = None
    return bank


def held(bank: Bank) -> dict[int, float]:
    """The first number of each readable frame's key, by frame of the video."""
    index = bank.frame_index[0, : bank.readable].tolist()
    return dict(sorted(zip(index, bank.key[0, : bank.readable, 0, 0, 0].tolist(), strict=True)))


def seen(policy: Policy, bank: Bank, pass_: Pass) -> list[int] | None:
    """The frames that a pass sees; None for all."""
    view = policy.see(bank, pass_)
    assert isinstance(view, View)
    if view.slots is None:
        return None
    return sorted(bank.frame_index[0, view.slots.index[0]].tolist())
