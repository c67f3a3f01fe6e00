"""prompt → conditioning → rollout ⇄ backbones ⇄ cache ⇠ policies; rollout → video → evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tethercache.backbones import attach
    from tethercache.cache import Policy
    from tethercache.pipeline import CausalVideoPipeline
    from tethercache.policies import POLICIES
    from tethercache.policies.tethercache import TetherCache
    from tethercache.policies.window import Window

__version__ = "0.1.0"

_WHERE = {
    "CausalVideoPipeline": "tethercache.pipeline",
    "POLICIES": "tethercache.policies",
    "Policy": "tethercache.cache",
    "TetherCache": "tethercache.policies.tethercache",
    "Window": "tethercache.policies.window",
    "attach": "tethercache.backbones",
}

__all__ = ["POLICIES", "CausalVideoPipeline", "Policy", "TetherCache", "Window", "attach"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'tethercache' has no attribute {name!r}")
