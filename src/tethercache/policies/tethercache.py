"""TetherCache: sink, memory and recent frames, with recall by GRAB and alignment by TAME.

Implements arXiv 2606.13035 in the exact order of the official code (`docs/reference.md`, sections
3-5):

* Until K = sink + memory + recent frames are there, frames are appended; then the first are the
  sink, the next the memory, the newest the recent region.
* From then on the frames that a new chunk pushes out of the recent region are set aside: the
  denoising passes do not see them. In the context pass, before its attention, they compete with the
  memory for its places (GRAB, `policies/grab.py`), and those that win are edited towards the
  statistics of sink and old memory (TAME, `policies/tame.py`) and written over the members that
  lost.
* Readable frames stand at positions 0..K-1 in time order, so positions never leave the trained
  window.

Every layer and every sample decides for itself; the official code averages scores and statistics
over the batch (a bug, section 8 of the reference).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tethercache.arguments import number, positive, whole_number
from tethercache.cache import Admission, LayerCache, Pass, Policy, Read, Room
from tethercache.policies import grab, tame


@dataclass(frozen=True)
class TetherCache(Policy):
    """Sink, memory and recent regions; recall by attention and diversity; trusted alignment.

    Args:
        sink: S, first latent frames, kept unchanged.
        memory: M, long-range latent frames chosen by GRAB.
        recent: R, newest latent frames, the current chunk included; at least a chunk.
        alpha: weight of temporal diversity against attention mass (GRAB), >= 0.
        tau: strength of the alignment of admitted frames (TAME), in [0, 1].
        temperature: softmax temperature of the attention mass, > 0.
    """

    sink: int = 3
    memory: int = 14
    recent: int = 4
    alpha: float = 0.35
    tau: float = 0.35
    temperature: float = 1.0

    def __post_init__(self) -> None:
        whole_number("sink", self.sink, least=0)
        whole_number("memory", self.memory, least=0)
        whole_number("recent", self.recent, least=1)
        number("alpha", self.alpha, least=0)
        number("tau", self.tau, least=0, most=1)
        positive("temperature", self.temperature)

    @property
    def budget(self) -> int:
        """K = sink + memory + recent."""
        return self.sink + self.memory + self.recent

    @property
    def sink_size(self) -> int:
        """S, the sink."""
        return self.sink

    def staging(self, chunk: int | None = None) -> int:
        """A chunk's worth of frames waits between its first pass and its context pass."""
        return (self.recent if chunk is None else min(chunk, self.recent)) if self.memory else 0

    def check_chunk(self, committed: int, frames: int) -> None:
        """The recent region must hold a chunk, and whole chunks must fill the budget exactly."""
        if committed and frames > self.recent:
            raise ValueError(f"`recent` ({self.recent}) must be at least the chunk ({frames})")
        if committed < self.budget < committed + frames:
            raise ValueError(
                f"sink + memory + recent ({self.sink} + {self.memory} + {self.recent} = "
                f"{self.budget}) must be reached by whole chunks: after {committed} latent frames "
                f"the next chunk of {frames} crosses it; a budget of {committed} or "
                f"{committed + frames} would do"
            )

    def make_room(self, cache: LayerCache, frames: int) -> Room:
        """Append while there is room; then set the oldest recent frames aside."""
        if cache.readable < self.budget:
            return Room(cache.grow(frames))
        recent = range(self.sink + self.memory, self.budget)
        leaving = cache.oldest_first(recent.start, recent.stop)[:, :frames]
        if self.memory:
            cache.set_aside(leaving)
        return Room(slots=leaving, moved=recent)

    def settle(self, cache: LayerCache, query: Tensor) -> range | None:
        """Let the frames set aside compete with the memory; write the winners over the losers."""
        if not cache.staged:
            return None
        trusted_end, first = self.sink + self.memory, self.budget
        members = cache.slots(self.sink, trusted_end)
        staged = cache.slots(first, first + cache.staged)
        target = _places(members, staged, self._select(cache, query))
        trusted = tame.pool(cache.stats.between(0, trusted_end))
        for start, stop in cache.staged_groups():
            frames, own = cache.frames[:, :, start:stop], cache.stats.between(start, stop)
            edited, after = tame.align(frames, own, trusted, self.tau)
            # a frame that was not admitted is edited where it stands, and forgotten below
            there = target[:, start - first : stop - first]
            cache.frames[:, cache.rows, there] = edited
            cache.note(there, after)
        cache.relabel(staged, target)
        cache.empty_staging()
        return range(self.sink, trusted_end)

    def read(self, cache: LayerCache, pass_: Pass) -> Read:
        """All readable frames at their ranks in time."""
        return Read(position=cache.rank())

    def _select(self, cache: LayerCache, query: Tensor) -> Tensor:
        """GRAB over members, then staged frames; records the decision in `cache.admission`."""
        members = slice(self.sink, self.sink + self.memory)
        staged = slice(self.budget, self.budget + cache.staged)
        index, keys = (
            torch.cat((known[:, members], known[:, staged]), dim=1)
            for known in (cache.frame_index, cache.stats.mean[0])
        )
        mass = grab.attention_mass(query.float().mean(dim=1), keys, self.temperature)
        diversity = grab.temporal_diversity(mass, index)
        score = grab.balance(mass, diversity, self.alpha)
        keep = grab.keep_best(score, self.memory)
        cache.admission = Admission(index, mass, diversity, score, keep)
        return keep


def _places(members: Tensor, staged: Tensor, keep: Tensor) -> Tensor:
    """Where each staged frame goes: to a dropped member's slot if it is kept, else it stays.

    The shape is fixed whatever the decision: the i-th admitted frame takes the i-th freed slot.

    Args:
        members: memory slots `[B, M]`.
        staged: staging slots `[B, F]`.
        keep: decision over members, then staged frames, bool `[B, M + F]`.

    Returns:
        Target slots `[B, F]`.
    """
    kept, admitted = keep.split((members.shape[1], staged.shape[1]), dim=1)
    freed_first = members.gather(1, kept.to(torch.int8).argsort(dim=1, stable=True))
    turn = (admitted.cumsum(dim=1) - 1).clamp(min=0)
    return torch.where(admitted, freed_first.gather(1, turn), staged)
