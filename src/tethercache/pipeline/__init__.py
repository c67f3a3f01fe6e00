from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.pipeline.calls import CausalVideoOutput
    from tethercache.pipeline.causal import CausalVideoPipeline

__all__ = ["CausalVideoOutput", "CausalVideoPipeline"]

__getattr__ = exports(__name__, {"CausalVideoOutput": "calls", "CausalVideoPipeline": "causal"})
