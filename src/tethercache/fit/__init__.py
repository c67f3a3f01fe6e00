"""Does a video fit, and how: what models take, what is free, and the way that is chosen.

`measure` reads the sizes of a model from its files, `estimate` adds up what a video takes, and
`choose` is the one question that the rest of the code asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.fit.choice import Machine, Placement, Wishes, choose
    from tethercache.fit.device import free_memory, pick_device
    from tethercache.fit.execution import Execution
    from tethercache.fit.sizes import measure

__all__ = [
    "Execution",
    "Machine",
    "Placement",
    "Wishes",
    "choose",
    "free_memory",
    "measure",
    "pick_device",
]

__getattr__ = exports(
    __name__,
    {
        "Execution": "execution",
        "Machine": "choice",
        "Placement": "choice",
        "Wishes": "choice",
        "choose": "choice",
        "free_memory": "device",
        "measure": "sizes",
        "pick_device": "device",
    },
)
