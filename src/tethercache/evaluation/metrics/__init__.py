"""Metrics by name. A new metric is one class in this folder and one entry in `METRICS`."""

from __future__ import annotations

from typing import Any, cast

from tethercache.evaluation.metrics.entry import MetricEntry, missing
from tethercache.registry import Registry


class MetricRegistry(Registry[Any]):
    """Registered metrics; an entry says what the metric needs and which value is better."""

    def __getitem__(self, name: str) -> MetricEntry:
        return cast(MetricEntry, super().__getitem__(name))


METRICS = MetricRegistry(
    "metric",
    {
        "colour_difference": MetricEntry(
            "tethercache.evaluation.metrics.colour:ColourDifference",
            "distance of the mean Lab colours of start and end",
            source="CIE 1976 Lab",
            unit="ΔE",
        ),
        "chroma": MetricEntry(
            "tethercache.evaluation.metrics.colour:Chroma",
            "change of the 95th percentile of chroma",
            source="CIE 1976 Lab",
            unit="Lab",
        ),
        "colourfulness": MetricEntry(
            "tethercache.evaluation.metrics.colour:Colourfulness",
            "change of the colourfulness",
            source="Hasler and Suesstrunk 2003",
            unit="of 255",
        ),
        "luma": MetricEntry(
            "tethercache.evaluation.metrics.colour:Luma",
            "change of the mean luma",
            source="ITU-R BT.601",
            unit="of 255",
        ),
        "contrast": MetricEntry(
            "tethercache.evaluation.metrics.detail:Contrast",
            "change of the standard deviation of luma",
            source="RMS contrast",
            unit="of 255",
        ),
        "log_sharpness": MetricEntry(
            "tethercache.evaluation.metrics.detail:LogSharpness",
            "log ratio of the mean absolute Laplacian, end to start",
            source="Laplacian focus measure",
        ),
        "texture": MetricEntry(
            "tethercache.evaluation.metrics.detail:Texture",
            "log ratio of the share that is not flat, end to start",
            source="luma steps above 2",
        ),
        "motion_level": MetricEntry(
            "tethercache.evaluation.metrics.motion:MotionLevel",
            "mean optical flow of the whole video",
            source="DIS flow, arXiv 1603.03590",
            unit="px/frame",
            better="neither",
        ),
        "motion_retention": MetricEntry(
            "tethercache.evaluation.metrics.motion:MotionRetention",
            "optical flow at the end over the start",
            source="DIS flow, arXiv 1603.03590",
            better="higher",
        ),
        "frozen_share": MetricEntry(
            "tethercache.evaluation.metrics.motion:FrozenShare",
            "share of frames that repeat the one before",
            source="frame difference below 0.3",
        ),
        "frozen_seconds": MetricEntry(
            "tethercache.evaluation.metrics.motion:FrozenSeconds",
            "longest standstill after it moved",
            source="frame difference below 0.3",
            unit="s",
        ),
        "repetition": MetricEntry(
            "tethercache.evaluation.metrics.motion:Repetition",
            "share that repeats what was there seconds before",
            source="12x7 pictures at the best lag",
        ),
        "layout_persistence": MetricEntry(
            "tethercache.evaluation.metrics.layout:LayoutPersistence",
            "correlation of the layouts of moments 2 s apart",
            source="52x30 luma, locally normalised",
            better="neither",
        ),
        "flicker": MetricEntry(
            "tethercache.evaluation.metrics.flicker:Flicker",
            "brightness that alternates every 2 to 4 frames, worst 5 s",
            source="Fourier amplitude of mean luma",
            unit="of 255",
        ),
        "cuts": MetricEntry(
            "tethercache.evaluation.metrics.cuts:Cuts",
            "number of shot changes",
            source="HSV content difference, as in PySceneDetect",
        ),
        "jumps": MetricEntry(
            "tethercache.evaluation.metrics.cuts:Jumps",
            "number of sudden changes",
            source="frame difference over 8 medians and 15",
        ),
        "chunk_boundary_flicker": MetricEntry(
            "tethercache.evaluation.metrics.flicker:ChunkBoundaryFlicker",
            "frame difference at the joins of chunks over that beside them",
            source="1: no joins visible",
        ),
        "temporal_flickering": MetricEntry(
            "tethercache.evaluation.metrics.flicker:TemporalFlickering",
            "VBench's temporal flickering; rewards still videos",
            source="VBench, arXiv 2311.17982",
            better="neither",
        ),
        "embedding_drift": MetricEntry(
            "tethercache.evaluation.metrics.embedding:EmbeddingDrift",
            "1 - cosine of the mean embeddings of start and end",
            source="EfficientNet-Lite0, arXiv 1905.11946",
            needs="embed",
        ),
        "long_lag_similarity": MetricEntry(
            "tethercache.evaluation.metrics.embedding:LongLagSimilarity",
            "mean cosine of embeddings 40 s apart",
            source="EfficientNet-Lite0, arXiv 1905.11946",
            better="higher",
            needs="embed",
        ),
    },
)

__all__ = ["METRICS", "MetricEntry", "MetricRegistry", "missing"]
