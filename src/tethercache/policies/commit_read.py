"""Commit Forcing: the context pass reads the newest frames only.

What a chunk leaves in the cache is written by its context pass. If that pass reads far history, the
history's faults are written into every new frame; if it reads the newest frames alone, far history
still serves the denoising passes, but is not passed on. (Commit Forcing; the rule is restated here
from its description: once the cache is full, the context pass sees the newest frames, the chunk
included, at their usual positions.)

Deviation: until the cache is full, the context pass sees what the policy inside shows, as there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Fused, Pass, View, Wrapper, each_view


@dataclass(frozen=True)
class CommitRead(Wrapper):
    """Let the context pass see the newest frames alone, once the cache is full.

    Args:
        of: the policy inside.
        newest: latent frames that the pass sees, the chunk included; 0: as many as that policy
            keeps recent (4 under TetherCache, 18 under a sink of 3 in a window of 21).
    """

    newest: int = 0

    def __post_init__(self) -> None:
        whole_number("newest", self.newest, least=0)

    def check_chunk(self, committed: int, frames: int) -> None:
        """The pass must see its own chunk whole."""
        if self._frames < frames:
            raise ValueError(f"`newest` ({self._frames}) must be at least the chunk ({frames})")
        self.of.check_chunk(committed, frames)

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, and in the context pass the newest of it."""
        seen = self.of.see(bank, pass_)
        if not (pass_.commits and bank.full):
            return seen
        return each_view(seen, lambda view: self._newest(bank, view))

    @property
    def _frames(self) -> int:
        return self.newest or self.of.recent_size

    def _newest(self, bank: Bank, view: View) -> View:
        return replace(view, slots=bank.newest(self._frames, among=view.slots))
