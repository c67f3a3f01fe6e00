"""VBench's dimensions, how they enter the totals, and those of its sister suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Dimension:
    """One of VBench's dimensions and how it enters the totals.

    Attributes:
        group: the total that it belongs to.
        minimum: normalised to 0.
        maximum: normalised to 1.
        weight: in its total.
        clip_seconds: length of its clips with the standard prompts.
    """

    group: Literal["quality", "semantic"]
    minimum: float
    maximum: float
    weight: float = 1.0
    clip_seconds: int = 2


DIMENSIONS: Mapping[str, Dimension] = {
    "subject_consistency": Dimension("quality", 0.1462, 1.0),
    "background_consistency": Dimension("quality", 0.2615, 1.0),
    "temporal_flickering": Dimension("quality", 0.6293, 1.0),
    "motion_smoothness": Dimension("quality", 0.706, 0.9975),
    "dynamic_degree": Dimension("quality", 0.0, 1.0, weight=0.5),
    "aesthetic_quality": Dimension("quality", 0.0, 1.0, clip_seconds=10),
    "imaging_quality": Dimension("quality", 0.0, 1.0, clip_seconds=10),
    "object_class": Dimension("semantic", 0.0, 1.0),
    "multiple_objects": Dimension("semantic", 0.0, 1.0),
    "human_action": Dimension("semantic", 0.0, 1.0, clip_seconds=10),
    "color": Dimension("semantic", 0.0, 1.0),
    "spatial_relationship": Dimension("semantic", 0.0, 1.0),
    "scene": Dimension("semantic", 0.0, 0.8222),
    "appearance_style": Dimension("semantic", 0.0009, 0.2855),
    "temporal_style": Dimension("semantic", 0.0, 0.364, clip_seconds=10),
    "overall_consistency": Dimension("semantic", 0.0, 0.364, clip_seconds=10),
}
FUSED = ("subject_consistency", "background_consistency")
PERCENT = ("imaging_quality",)
"""Scored 0 to 100 a clip, 0 to 1 in the mean."""
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1
CUSTOM_CLIP_SECONDS = 2

SISTERS: Mapping[str, frozenset[str]] = {
    "VBench-2.0": frozenset(
        {
            "camera_motion",
            "complex_landscape",
            "complex_plot",
            "composition",
            "diversity",
            "dynamic_attribute",
            "dynamic_spatial_relationship",
            "human_anatomy",
            "human_clothes",
            "human_identity",
            "human_interaction",
            "instance_preservation",
            "material",
            "mechanics",
            "motion_order_understanding",
            "motion_rationality",
            "multi_view_consistency",
            "thermotics",
        }
    ),
    "VBench-I2V": frozenset({"i2v_subject", "i2v_background", "camera_motion"}),
}
"""Suites whose result files look alike, by their own dimensions."""


def dimension_name(key: str) -> str:
    """The name of a dimension as result files spell it, with spaces or underscores."""
    return key.strip().replace(" ", "_").replace("-", "_")


def sister_suite(names: frozenset[str]) -> str | None:
    """The suite that has all of these dimensions, none of which is VBench-Long's."""
    lower = {name.lower() for name in names}
    return next((suite for suite, own in SISTERS.items() if lower and lower <= own), None)
