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

from dataclasses import dataclass
from typing import Literal

from tethercache.arguments import one_of
from tethercache.cache import Bank, Fused, Pass, View, each_view
from tethercache.policies.narrow import Banded, newest_of, without


@dataclass(frozen=True)
class FarRead(Banded):
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
    """

    context: Literal["far", "near"] = "near"
    sink: Literal["far", "near"] = "far"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("context", self.context, ("far", "near"))
        one_of("sink", self.sink, ("far", "near"))

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, or the newest of it."""
        seen = self.of.see(bank, pass_)
        if not self.filled(bank) or self.sees_far(pass_):
            return seen
        return each_view(seen, lambda view: self._near(bank, view))

    def sees_far(self, pass_: Pass) -> bool:
        """Whether `pass_` sees far frames."""
        if pass_.commits:
            return self.context == "far" and self.in_layers(pass_)
        return self.in_layers(pass_) and self.in_steps(pass_)

    def _near(self, bank: Bank, view: View) -> View:
        if self.sink == "near":
            return without(bank, view, self.sink_size, bank.readable - self.near)
        return newest_of(view, bank, self.near)
