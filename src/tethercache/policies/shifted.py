r"""Shifted positions: frames keep their distances in time, but for long gaps. Ours.

Sources store rotated keys at global indices and turn a group of them, the sink for example, by so
much that it stands next to another. Generally: the readable frames with indices
:math:`g_0 < g_1 < \dots` stand at

.. math:: p_0 = 0, \qquad p_i = p_{i-1} + \min(g_i - g_{i-1},\ gap)

`gap=1` is `relative`: all stand next to each other. A gap as long as the video is `absolute`, but
for where it begins, and attention sees differences alone. Between the two a memory shows in which
order and roughly how far apart its frames were, and yet never stands further away than
:math:`gap\,(K - 1)`. What the policy inside says about positions does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Wrapper


@dataclass(frozen=True)
class Shifted(Wrapper):
    """Let frames stand at their distances in time, and shorten long gaps.

    Args:
        of: the policy inside.
        gap: longest distance between one frame and the next, in latent frames, at least 1.
    """

    gap: int = 2

    def __post_init__(self) -> None:
        whole_number("gap", self.gap, least=1)

    def place(self, bank: Bank) -> Tensor:
        """Distances in time, shortened."""
        index = bank.frame_index[:, : bank.readable]
        time, order = index.sort(dim=1)
        step = time.diff(dim=1, prepend=time[:, :1]).clamp(max=self.gap)
        place = torch.zeros_like(index).scatter(1, order, step.cumsum(dim=1))
        jumped: Tensor = bank.index() - index
        return place + jumped
