"""Read masks: frames of one role are not seen in a band of steps and layers. Ours.

Once the cache is full, the frames that are `hide` are not seen by the passes of the band; all else
is as the policy inside shows it. In the order of time, of n readable frames,

* `sink`: the first S;
* `near`: the newest, but the chunk in progress, and not the sink;
* `memory`: what is between sink and newest;
* `far`: sink and memory.

Masks add up: behind each other they hide what any of them hides, so every mask by role, step and
layer can be put together of bands. `read-mask` alone is `commit-read`; `far-read` is the contrary
of one band, in which alone far frames are seen. A read that would see nothing, such as that of
`anchor`'s early frames alone, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tethercache.arguments import one_of
from tethercache.cache import Bank, Fused, Pass, View, each_view
from tethercache.policies.narrow import Banded, without


@dataclass(frozen=True)
class ReadMask(Banded):
    """Hide frames of one role in a band of passes.

    Args:
        of: the policy inside.
        newest: latent frames that are near, the chunk included; 0: as many as that policy keeps
            recent.
        first_step: first denoising step of the band, from 0; negative ones count from the end.
        last_step: last such step.
        first_layer: where its layers begin, as a share of the depth.
        last_layer: where they end.
        hide: the role: `far`, `sink`, `memory` or `near`.
        passes: `context` for the context pass alone, `denoising` for the band's denoising passes,
            `all` for both.
    """

    hide: Literal["far", "sink", "memory", "near"] = "far"
    passes: Literal["context", "denoising", "all"] = "context"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("hide", self.hide, ("far", "sink", "memory", "near"))
        one_of("passes", self.passes, ("context", "denoising", "all"))

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What the policy inside shows, without what is hidden."""
        seen = self.of.see(bank, pass_)
        if not (self.filled(bank) and self.hides(pass_)):
            return seen
        start, stop = self._ranks(bank)
        return each_view(seen, lambda view: without(bank, view, start, stop))

    def hides(self, pass_: Pass) -> bool:
        """Whether `pass_` belongs to the band."""
        if not self.in_layers(pass_):
            return False
        if pass_.commits:
            return self.passes != "denoising"
        return self.passes != "context" and self.in_steps(pass_)

    def _ranks(self, bank: Bank) -> tuple[int, int]:
        before, sink = bank.readable - self.near, self.sink_size
        return {
            "far": (0, before),
            "sink": (0, sink),
            "memory": (sink, before),
            "near": (max(sink, before), bank.readable - len(bank.current)),
        }[self.hide]
