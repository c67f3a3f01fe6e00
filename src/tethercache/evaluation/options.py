"""What may be chosen about a measurement, and the key under which its result is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.metric import Metric

MEASURE_VERSION = 2
"""Raised when what is computed around the metrics changes, so that old results are not reused."""


@dataclass(frozen=True)
class Options:
    """What may be chosen about the measurement.

    Attributes:
        every: measure colour, detail and motion in every n-th frame. Cuts, flicker and frozen
            frames always look at all.
        chunk: pixel frames of a generated chunk, for the flicker at its joins.
        first_chunk: pixel frames of the first chunk.
        embed: also measure the metrics that need the extra `embed`.
        image_fps: frames a second of folders of images, which do not say it.
    """

    every: int = 2
    chunk: int = 12
    first_chunk: int = 9
    embed: bool = False
    image_fps: float = 16.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"`every` ({self.every}) must be at least 1")
        if not 0.1 <= self.image_fps <= 1000:  # also what is no number
            raise ValueError(f"`image_fps` ({self.image_fps}) must be between 0.1 and 1000")
        self.metrics()

    def metrics(self) -> dict[str, Metric]:
        """The metrics to measure, by name."""
        settings = {"chunk_boundary_flicker": f":chunk={self.chunk},first={self.first_chunk}"}
        return {
            name: METRICS.parse(name + settings.get(name, ""))
            for name in METRICS
            if METRICS[name].needs != "embed" or self.embed
        }

    def key(self) -> str:
        """Names these options and the versions of everything that is measured."""
        versions = {
            METRICS.spec(metric, full=True): metric.version for metric in self.metrics().values()
        }
        settings = [MEASURE_VERSION, self.every, self.image_fps, versions]
        return json.dumps(settings, sort_keys=True)
