"""TetherCache: sink, memory and recent frames, with recall by GRAB and alignment by TAME.

Implements arXiv 2606.13035 in the exact order of the official code (`docs/reference.md`, sections
3-5). How frames are hidden and recalled is in `policies/recall.py`. Hidden frames and the memory
compete by GRAB (`policies/grab.py`); those that win are edited towards the statistics of sink and
old memory by TAME (`policies/tame.py`).

Every layer and every sample decides for itself; the official code averages scores and statistics
over the batch (a bug, section 8 of the reference).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tethercache.arguments import number, positive
from tethercache.cache import Bank, Slots
from tethercache.policies import grab
from tethercache.policies.recall import Recall


@dataclass(frozen=True)
class TetherCache(Recall):
    """Sink, memory and recent regions; recall by attention and diversity; trusted alignment.

    Args:
        sink: S, first latent frames, kept unchanged.
        memory: M, long-range latent frames chosen by GRAB.
        recent: R, newest latent frames, the current chunk included; at least a chunk.
        alpha: weight of temporal diversity against attention mass (GRAB), >= 0.
        tau: strength of the alignment of admitted frames (TAME), in [0, 1].
        temperature: softmax temperature of the attention mass, > 0.
    """

    alpha: float = 0.35
    tau: float = 0.35
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, least=0)
        number("tau", self.tau, least=0, most=1)
        positive("temperature", self.temperature)

    @property
    def strength(self) -> float:
        """Tau."""
        return self.tau

    def choose(self, bank: Bank, candidates: Slots) -> Tensor:
        """GRAB."""
        assert bank.query is not None
        index = bank.frame_index.gather(1, candidates.index)
        keys = bank.heads.gather(bank.stats.mean[0][bank.rows, candidates.index])
        query = bank.heads.gather(bank.query.float().mean(dim=1))
        mass = grab.attention_mass(query, keys, self.temperature)
        diversity = grab.temporal_diversity(mass, index)
        score = grab.balance(mass, diversity, self.alpha)
        keep = grab.keep_best(bank.prefer(score, candidates), self.memory)
        bank.tell("recall", index=index, mass=mass, diversity=diversity, score=score, keep=keep)
        return keep
