"""Commit Forcing: the context pass reads the newest frames only.

What a chunk leaves in the cache is written by its context pass. If that pass reads far history, the
history's faults are written into every new frame; if it reads the newest frames alone, far history
still serves the denoising passes, but is not passed on. (Commit Forcing; the rule is restated here
from its description: once the cache is full, the context pass sees the newest frames, the chunk
included, at their usual positions. Until then it sees what the policy inside shows.)

Deviations: none that we know of. Where the policy inside narrows the pass itself, the newest of
what it shows are seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from tethercache.cache import Bank, Fused, Pass, View, each_view
from tethercache.policies.narrow import Narrow, newest_of


@dataclass(frozen=True)
class CommitRead(Narrow):
    """Let the context pass see the newest frames alone, once the cache is full.

    Args:
        of: the policy inside.
        newest: latent frames that the pass sees, the chunk included; 0: as many as that policy
            keeps recent (4 under TetherCache, 18 under a sink of 3 in a window of 21).
    """

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, and in the context pass the newest of it."""
        seen = self.of.see(bank, pass_)
        if not (pass_.commits and self.filled(bank)):
            return seen
        return each_view(seen, lambda view: newest_of(view, bank, self.near))
