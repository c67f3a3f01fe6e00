r"""MemFlow's memory: frames that the prompt says most about.

Source: the narrative memory (NAM) of MemFlow. Between sink and window there is a memory of M
frames. The first frame of every third chunk comes into it, and the least relevant of those there
leaves, where the relevance of a frame to a layer is the mean of

.. math:: \langle k^{text}_h, k_{jh} \rangle / \sqrt{D}

over the prompt's tokens, the frame's tokens and heads. A mean of inner products is the inner
product of the means.

Deviations: a frame comes when its chunk leaves the window, so no frame is read twice; the first
members are the frames behind the sink; positions are relative, there global indices (that is
`positions=absolute`). The selection of frames by head (SMA) is left out: it saves time where
unread frames are skipped, and would here be a mask that costs time. Where a layer does not know the
prompt's keys, the oldest member leaves: that is the last layer during a prefix, which ends with its
commit, and every layer of a pipeline of the original code, which keeps them to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Slots
from tethercache.policies import grab
from tethercache.policies.window import Window


@dataclass(frozen=True)
class MemFlow(Window):
    """Sink, a memory that is relevant to the prompt, and the newest frames.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that attention reads, sink, memory and chunk included.
        positions: see `Window`.
        memory: M, frames in memory, at least 1.
        interval: every how many chunks a frame comes into memory.
    """

    sink: int = 3
    window: int = 12
    memory: int = 3
    interval: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("memory", self.memory, least=1)
        whole_number("interval", self.interval, least=1)

    @property
    def kept(self) -> int:
        """The slots of sink and memory."""
        return self.sink + self.memory

    @property
    def recent_size(self) -> int:
        """The newest frames."""
        return self.window - self.kept

    @property
    def needs_statistics(self) -> bool:
        """Relevance is told from mean keys."""
        return True

    def reserve(self, chunk: int | None = None) -> int:
        """The frame that may come into memory is hidden for a moment."""
        return 1

    def leave(self, bank: Bank, frames: Slots) -> None:
        """Let the first of them into memory, if it is the turn of this chunk."""
        device = frames.index.device
        left = bank.notes.get("memflow.left", torch.zeros((), dtype=torch.int64, device=device))
        members, coming = bank.slots(self.sink, self.kept), bank.hide(frames[:1])
        both, relevance = members + coming, self._relevance(bank, members)
        score = torch.cat((relevance, torch.full_like(relevance[:, :1], _SURE)), dim=1)
        keep = grab.keep_best(bank.prefer(score, both), self.memory)
        stay = torch.arange(self.memory + 1, device=device).expand_as(keep) < self.memory
        keep = torch.where(left % self.interval == 0, keep, stay)
        index = bank.frame_index.gather(1, both.index)
        bank.tell("recall", index=index, score=score, keep=keep)
        bank.recall(members, coming, keep)
        bank.release()
        bank.notes["memflow.left"] = left + 1

    def _relevance(self, bank: Bank, frames: Slots) -> Tensor:
        """Of each frame to the prompt, `[B, len(frames)]`."""
        if bank.text is None:
            return bank.frame_index.gather(1, frames.index).float()
        asked = bank.heads.gather(bank.text.float().mean(dim=1))
        keys = bank.heads.gather(bank.stats.mean[0][bank.rows, frames.index])
        relevance: Tensor = (keys * asked[:, None]).mean(dim=2).sum(dim=2) / keys.shape[-1] ** 0.5
        return relevance


_SURE = 1e9  # better than any relevance
