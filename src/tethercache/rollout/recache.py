"""Which frames a rollout remembers, and their clean latents, to be read again under a new prompt.

Source: the KV recache of LongLive, which runs the newest latents once more, in one pass and under
the new prompt. Deviations: the frames are those that the layers remember, and they are read chunk
by chunk, each chunk seeing itself and what was read before, as when they were made. (The paper's
pass is block-causal; in the code of version 1.0 all frames of the pass see each other.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tethercache.cache import Bank
from tethercache.cache.store import INDEX, LIVE, PINNED
from tethercache.session import Session
from tethercache.state import State

_FEW = 64


class Latents:
    """Clean latents of the frames that may be read again, in host memory.

    Those that no bank holds any more go now and then, so that there are never many.
    """

    def __init__(self) -> None:
        self._frames: dict[int, Tensor] = {}  # by global index, [B, C, h, w]
        self._most = _FEW

    def add(self, start: int, latents: Tensor) -> None:
        """Keep `latents` `[B, C, F, h, w]` of the frames from `start` on."""
        for index, frame in enumerate(latents.detach().cpu().unbind(2), start):
            self._frames[index] = frame.clone()

    def prune(self, session: Session) -> None:
        """Where there are many, drop those of frames that none of the session's banks holds."""
        if len(self._frames) <= self._most:
            return
        held = {int(i) for bank in session.caches() for i in bank.frame_index.unique().tolist()}
        self._frames = {index: x for index, x in self._frames.items() if index in held}
        self._most = max(_FEW, 2 * len(self._frames))

    def of(self, index: Tensor) -> Tensor:
        """The latents `[B, C, F, h, w]` of frames `index` `[B, F]`, each sample's own."""
        samples = [
            torch.stack([self._frames[i][sample] for i in row], dim=1)
            for sample, row in enumerate(index.tolist())
        ]
        return torch.stack(samples)

    def copy(self) -> Latents:
        """Another one that keeps the same frames."""
        other = Latents()
        other._frames, other._most = dict(self._frames), self._most
        return other

    def state_dict(self) -> State:
        """See `tethercache.state`."""
        index = sorted(self._frames)
        return {"most": self._most, "index": index, "latents": [self._frames[i] for i in index]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        pairs = zip(state["index"], state["latents"], strict=True)
        self._frames, self._most = {i: x.cpu().clone() for i, x in pairs}, state["most"]


def remembered(banks: Sequence[Bank]) -> tuple[Tensor, Tensor]:
    """The frames to read again, as many as a layer can read, in the order of time.

    Where the layers remember different frames, those come first that are pinned, then those that
    most layers hold, then the newest. Forgotten frames are none of them.

    Returns:
        Their global index, int64 `[B, n]`, and whether they are pinned, bool `[B, n]`.
    """
    readable = min(bank.readable for bank in banks)
    marks = [bank.marks[:, :, : bank.readable].cpu() for bank in banks]
    ranked, pinned = [], []
    for sample in range(marks[0].shape[1]):
        votes, kept = Counter[int](), set[int]()
        for mark in marks:
            live = mark[:, sample, mark[LIVE, sample] == 1]
            votes.update(live[INDEX].tolist())
            kept.update(live[INDEX, live[PINNED] == 1].tolist())
        key = {i: (i in kept, votes[i], i) for i in votes}
        ranked.append(sorted(votes, key=key.__getitem__, reverse=True))
        pinned.append(kept)
    n = min(readable, *map(len, ranked))
    index = [sorted(row[:n]) for row in ranked]
    marked = [[i in kept for i in row] for row, kept in zip(index, pinned, strict=True)]
    return torch.tensor(index, dtype=torch.int64), torch.tensor(marked, dtype=torch.bool)


def pin_again(banks: Sequence[Bank], pinned: Tensor) -> None:
    """Mark frames just read, which lie in the order of time, as `pinned` `[B, n]`."""
    if pinned.any():
        for bank in banks:
            order = bank.frame_index[:, : bank.readable].argsort(dim=1)
            bank.marks[PINNED, bank.rows, order] = pinned.to(bank.marks)
            bank.any_pinned = True
