"""Which attention heads are here: all of them, or this process's share.

Axes: B samples, L tokens, l = L / N tokens of one of N processes, H heads, h = H / N heads of one
of them, D channels a head.

Where N processes make one video, each computes l tokens of the model and attends with h heads to
all tokens (Ulysses). So each keeps all frames of its own heads, and nothing of the others'. What a
policy decides by looking at all heads it has to decide alike in each process: `Heads.gather` gives
every process the same numbers in the same order, those that one process alone would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tethercache.state import State

_AXIS = {"frames": 4, "mean": 3, "var": 3}  # of the heads, in what a bank saves


class Heads:
    """All heads are here: every method hands on what it is given.

    Attributes:
        shares: N, among how many processes the heads are shared.
        rank: which of them this one is.
    """

    shares = 1
    rank = 0

    def to_heads(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Of own tokens, all heads, `[B, l, H, D]`, to all tokens, own heads, `[B, L, h, D]`."""
        return tokens

    def to_tokens(self, output: Tensor) -> Tensor:
        """Of all tokens, own heads, `[B, L, h, D]`, to own tokens, all heads, `[B, l, H, D]`."""
        return output

    def gather(self, x: Tensor, dim: int = -2) -> Tensor:
        """All heads of which `x` has the own ones along `dim`."""
        return x

    def own(self, x: Tensor, dim: int = -2) -> Tensor:
        """The own ones of all heads along `dim`."""
        return x

    def total(self, x: Tensor) -> Tensor:
        """The sum of what each process has summed over its own heads."""
        return x

    def gather_state(self, state: State) -> State:
        """What a bank saves, with all heads: the same, whatever the number of processes."""
        return _with_heads(state, self.gather) if self.shares > 1 else state

    def own_state(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a bank loads, with the own heads alone."""
        return _with_heads(state, self.own) if self.shares > 1 else state


class SharedHeads(Heads):
    """Each process has as many heads, in the order of ranks. All must call each method alike.

    Args:
        group: the processes.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.shares = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def to_heads(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """See `Heads`; one exchange for all of them."""
        parts = torch.stack(tokens).unflatten(3, (self.shares, -1))
        parts = self._exchange(parts.movedim(3, 0))  # [N, n, B, l, h, D]
        return parts.permute(1, 2, 0, 3, 4, 5).flatten(2, 3).unbind()

    def to_tokens(self, output: Tensor) -> Tensor:
        """See `Heads`."""
        parts = output.unflatten(1, (self.shares, -1)).movedim(1, 0)
        return self._exchange(parts).movedim(0, 2).flatten(2, 3)  # of [N, B, l, h, D]

    def gather(self, x: Tensor, dim: int = -2) -> Tensor:
        """See `Heads`."""
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in self._ranks]
        dist.all_gather(parts, x.contiguous(), group=self._group)
        return torch.cat(parts, dim)

    def own(self, x: Tensor, dim: int = -2) -> Tensor:
        """See `Heads`."""
        return x.chunk(self.shares, dim)[self.rank]

    def total(self, x: Tensor) -> Tensor:
        """See `Heads`."""
        total = x.contiguous().clone()
        dist.all_reduce(total, group=self._group)
        return total

    @property
    def _ranks(self) -> range:
        return range(self.shares)

    def _exchange(self, parts: Tensor) -> Tensor:
        """Send `parts[i]` to process i; what each has sent to this one, in their order."""
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self._group)
        return received


def _with_heads(state: Mapping[str, Any], change: Any) -> State:
    """A bank's state with `change(tensor, dim)` of all that has heads."""

    def laid(saved: Mapping[str, Any]) -> State:
        values = saved["values"]
        if values.dim() < 3:
            return dict(saved)
        values = change(values, -2).contiguous()
        return {"values": values, "strides": list(values.stride())}

    changed = {name: change(state[name], axis) for name, axis in _AXIS.items() if name in state}
    if "known" in state:
        changed["known"] = {**state["known"]}
        if "text" in state["known"]:
            changed["known"]["text"] = laid(state["known"]["text"])
        changed["notes"] = {name: laid(note) for name, note in state["notes"].items()}
    return {**state, **changed}
