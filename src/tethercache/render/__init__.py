"""A request becomes a video and its files.

`check` finds its model, `prepare` fetches that and plans the video, `load` chooses how it fits and
loads it; a `Render` makes the frames, a `Recording` writes them. `make` is all of it in one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.render.batch import IncompleteBatchError, Job, name_videos
    from tethercache.render.loading import Loaded, load
    from tethercache.render.making import make
    from tethercache.render.order import Order, check, prepare
    from tethercache.render.record import request_of
    from tethercache.render.recording import Recording, check_recording, complete, unnamed
    from tethercache.render.render import Render

__all__ = [
    "IncompleteBatchError",
    "Job",
    "Loaded",
    "Order",
    "Recording",
    "Render",
    "check",
    "check_recording",
    "complete",
    "load",
    "make",
    "name_videos",
    "prepare",
    "request_of",
    "unnamed",
]

__getattr__ = exports(
    __name__,
    {
        "IncompleteBatchError": "batch",
        "Job": "batch",
        "Loaded": "loading",
        "Order": "order",
        "Recording": "recording",
        "Render": "render",
        "check": "order",
        "check_recording": "recording",
        "complete": "recording",
        "load": "loading",
        "make": "making",
        "name_videos": "batch",
        "prepare": "order",
        "request_of": "record",
        "unnamed": "recording",
    },
)
