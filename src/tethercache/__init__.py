"""prompt → conditioning → rollout ⇄ backbones ⇄ cache ⇠ policies; rollout → video → evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.backbones import attach
    from tethercache.cache import Policy
    from tethercache.comparison import compare
    from tethercache.pipeline import CausalVideoPipeline
    from tethercache.policies import POLICIES
    from tethercache.policies.tethercache import TetherCache
    from tethercache.policies.window import Window
    from tethercache.render import make
    from tethercache.request import VideoRequest

__version__ = "0.2.0"

__all__ = [
    "POLICIES",
    "CausalVideoPipeline",
    "Policy",
    "TetherCache",
    "VideoRequest",
    "Window",
    "attach",
    "compare",
    "make",
]

__getattr__ = exports(
    __name__,
    {
        "CausalVideoPipeline": "pipeline",
        "POLICIES": "policies",
        "Policy": "cache",
        "TetherCache": "policies.tethercache",
        "VideoRequest": "request",
        "Window": "policies.window",
        "attach": "backbones",
        "compare": "comparison",
        "make": "render",
    },
)
