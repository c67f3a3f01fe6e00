"""Policies compared fairly: the same prompts, the same seeds, the same noise.

    policies x prompts x seeds ──> units ──> videos and their records, as `generate` makes them
                                     │
                                     └──> readings (JSON beside each video) ──> summary ──> tables

`compare` does all of it. Every unit is a video with a record and a reading, so a comparison that
broke off goes on where it was, and one that is complete can be given more policies, prompts or
seeds. The oracle reads scenes of the rendered world; of other prompts there is the drift panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.comparison.comparing import compare
    from tethercache.comparison.plan import Plan, Subject, of_prompts, of_scenes
    from tethercache.comparison.summary import Summary, summarise
    from tethercache.comparison.units import Unit, run

__all__ = [
    "Plan",
    "Subject",
    "Summary",
    "Unit",
    "compare",
    "of_prompts",
    "of_scenes",
    "run",
    "summarise",
]

__getattr__ = exports(
    __name__,
    {
        "Plan": "plan",
        "Subject": "plan",
        "Summary": "summary",
        "Unit": "units",
        "compare": "comparing",
        "of_prompts": "plan",
        "of_scenes": "plan",
        "run": "units",
        "summarise": "summary",
    },
)
