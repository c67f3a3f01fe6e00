"""Far reads: which passes and layers see more than the newest frames.

Commit Forcing's authors report where far history helps and where it harms: read in the context pass
it writes its faults on; read in the last denoising step by the last third of the layers, it gives
much of the benefit at no loss of motion; read by the first third of the layers, it freezes motion.
This wrapper says it by bands. Outside the bands a pass sees, once the cache is full, the newest
frames only, at their usual positions. The rule and its form are ours.

`late-far` sees far frames in the last denoising step of the layers from 0.66 of the depth on
(20 to 29 of 30), and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tethercache.arguments import number, one_of, whole_number
from tethercache.cache import Bank, Fused, Pass, View, Wrapper, each_view


@dataclass(frozen=True)
class FarRead(Wrapper):
    """Show far frames in a band of denoising steps and layers only.

    Args:
        of: the policy inside.
        newest: latent frames that are near, the chunk included; 0: as many as that policy keeps
            recent.
        first_step: first denoising step that sees far frames, from 0; negative ones count from the
            end: -1 is the last.
        last_step: last such step.
        first_layer: where the layers begin that see far frames, as a share of the depth.
        last_layer: where they end.
        context: whether the context pass sees far frames (`far`, in the same layers) or not.
        sink: whether the sink is `far`, or seen by all passes as what is `near`.

    Where the caller does not say how many steps a chunk has, no step is known to be near its end:
    a negative `first_step` is never reached, a negative `last_step` not passed.
    """

    newest: int = 0
    first_step: int = 0
    last_step: int = -1
    first_layer: float = 0.0
    last_layer: float = 1.0
    context: Literal["far", "near"] = "near"
    sink: Literal["far", "near"] = "far"

    def __post_init__(self) -> None:
        whole_number("newest", self.newest, least=0)
        whole_number("first_step", self.first_step)
        whole_number("last_step", self.last_step)
        number("first_layer", self.first_layer, least=0, most=1)
        number("last_layer", self.last_layer, least=0, most=1)
        one_of("context", self.context, ("far", "near"))
        one_of("sink", self.sink, ("far", "near"))

    def check_chunk(self, committed: int, frames: int) -> None:
        """A pass must see its own chunk whole."""
        if self._frames < frames:
            raise ValueError(f"`newest` ({self._frames}) must be at least the chunk ({frames})")
        self.of.check_chunk(committed, frames)

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, or the newest of it."""
        seen = self.of.see(bank, pass_)
        if not bank.full or self.sees_far(pass_):
            return seen
        return each_view(seen, lambda view: self._near(bank, view))

    def sees_far(self, pass_: Pass) -> bool:
        """Whether `pass_` sees far frames."""
        depth = pass_.layer / pass_.layers
        if not self.first_layer <= depth < self.last_layer:
            return False
        if pass_.commits:
            return self.context == "far"
        first, last = self.first_step, self.last_step
        if pass_.steps is not None:
            first, last = (n + pass_.steps if n < 0 else n for n in (first, last))
        return 0 <= first <= pass_.step and (pass_.step <= last or last < 0)

    @property
    def _frames(self) -> int:
        return self.newest or self.of.recent_size

    def _near(self, bank: Bank, view: View) -> View:
        seen = bank.newest(bank.readable, among=view.slots)
        sink = self.sink_size if self.sink == "near" else 0
        if sink + self._frames >= len(seen):
            return view
        return replace(view, slots=seen[:sink] + seen[len(seen) - self._frames :])
