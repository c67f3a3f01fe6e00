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

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from tethercache.arguments import number, positive, whole_number
from tethercache.cache import Bank, FrameStats, Policy, Slots
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

    @property
    def recent_size(self) -> int:
        """R, the newest frames."""
        return self.recent

    def reserve(self, chunk: int | None = None) -> int:
        """A chunk's worth of frames is hidden between its first pass and its context pass."""
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

    def smaller(self, chunk: int) -> Iterator[TetherCache]:
        """Smaller memories."""
        for memory in range(self.memory - chunk, 0, -chunk):
            yield replace(self, memory=memory)

    def open(self, bank: Bank, frames: int) -> Slots:
        """Append while there is room; then hide the oldest recent frames and take their slots."""
        overflow = bank.readable + frames - self.budget
        if overflow <= 0:
            return bank.take(frames)
        # a pinned frame may leave here: it is sure to be recalled
        leaving = bank.oldest(overflow, since=self.sink + self.memory, spare_pinned=not self.memory)
        if self.memory:
            bank.hide(leaving)
        # behind a cut, whole chunks need not fill the budget exactly
        return leaving if bank.full else leaving + bank.take(frames - overflow)

    def commit(self, bank: Bank) -> None:
        """Let the hidden frames compete with the memory; write the winners over the losers."""
        if not bank.hidden:
            return
        members, hidden = bank.slots(self.sink, self.sink + self.memory), bank.waiting()
        trusted = tame.pool(bank.stats.between(0, self.sink + self.memory))

        def edit(frames: Tensor, own: FrameStats) -> tuple[Tensor, FrameStats]:
            return tame.align(frames, own, trusted, self.tau)

        bank.recall(members, hidden, self._select(bank, members + hidden), edit)
        bank.release()

    def _select(self, bank: Bank, candidates: Slots) -> Tensor:
        """GRAB over members, then hidden frames: who stays, bool `[B, len(candidates)]`."""
        assert bank.query is not None
        index = bank.frame_index.gather(1, candidates.index)
        keys = bank.stats.mean[0][bank.rows, candidates.index]
        mass = grab.attention_mass(bank.query.float().mean(dim=1), keys, self.temperature)
        diversity = grab.temporal_diversity(mass, index)
        score = grab.balance(mass, diversity, self.alpha)
        keep = grab.keep_best(bank.prefer(score, candidates), self.memory)
        bank.tell("recall", index=index, mass=mass, diversity=diversity, score=score, keep=keep)
        return keep
