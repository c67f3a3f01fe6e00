"""From numbers to a word: stable, watch or drifting, by one table of thresholds.

A video drifts if at least two of {colour, saturation, sharpness, motion collapse} say so, because
each of them alone can be what the prompt asked for: fireworks get brighter, a wave fills the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tethercache.evaluation.metrics import METRICS

Word = Literal["stable", "watch", "drifting"]

_PAIRS = "nine 60 s pairs of Self-Forcing and TetherCache"


@dataclass(frozen=True)
class Threshold:
    """From where on a metric asks for a look, and from where on it speaks of drift.

    Attributes:
        component: the symptom that the metric measures.
        metric: its registered name.
        watch: a value worse than this is worth a look.
        drifting: a value worse than this is a symptom of drift.
        provenance: where the numbers come from.
    """

    component: str
    metric: str
    watch: float
    drifting: float
    provenance: str

    def word(self, value: float) -> Word:
        """Judge one value."""
        if self.is_beyond(value, self.drifting):
            return "drifting"
        return "watch" if self.is_beyond(value, self.watch) else "stable"

    def is_beyond(self, value: float, limit: float) -> bool:
        """Whether a value is worse than a limit; the sign of a change does not count."""
        if METRICS[self.metric].better == "higher":
            return value < limit
        return abs(value) > limit


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "colour",
        "colour_difference",
        watch=7.0,
        drifting=10.0,
        provenance=f"{_PAIRS}: baseline 12.2 to 42.7, TetherCache 1.1 to 6.9; onset at 10",
    ),
    Threshold(
        "saturation",
        "chroma",
        watch=7.0,
        drifting=9.0,
        provenance=f"{_PAIRS}: baseline 12.2 to 59.2, TetherCache 0 to 13.5; "
        "11.1 at our working size for the least of the three at hand",
    ),
    Threshold(
        "sharpness",
        "log_sharpness",
        watch=0.2,
        drifting=0.25,
        provenance=f"{_PAIRS}: baseline 0.11 to 1.25, TetherCache 0.02 to 0.24; "
        "re-encoding at CRF 35 alone gives 0.2",
    ),
    Threshold(
        "motion collapse",
        "motion_retention",
        watch=0.5,
        drifting=0.4,
        provenance=f"{_PAIRS}: means 0.32 for the baseline, 0.77 for TetherCache",
    ),
)
"""Few videos (18): a reason to look, not a law. A video with cuts breaks what they rest on."""

SYMPTOMS_OF_DRIFT = 2
FROZEN_SHARE = 0.5
"""A video of which more than this is frozen is never called stable."""
STILL = 0.05
"""Motion below this, pixels a frame, is none."""


@dataclass(frozen=True)
class Verdict:
    """What is said about one video.

    Attributes:
        word: the verdict.
        components: the verdict of each component that was measured.
        reasons: what led to it, one sentence each.
        notes: what the reader must know beside it, above all cuts and stillness.
    """

    word: Word
    components: Mapping[str, Word]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def judge(metrics: Mapping[str, float | None], cut_times: Sequence[float] = ()) -> Verdict:
    """Judge a video by its metrics; those that were not measured are left out."""
    components: dict[str, Word] = {}
    reasons, notes = [], []
    for threshold in THRESHOLDS:
        value = metrics.get(threshold.metric)
        if value is None:
            continue
        word = threshold.word(value)
        components[threshold.component] = word
        if word != "stable":
            limit = threshold.drifting if word == "drifting" else threshold.watch
            sign = "<" if METRICS[threshold.metric].better == "higher" else ">"
            reasons.append(
                f"{threshold.component}: {threshold.metric} {value:.3g} {sign} {limit:g}"
            )
    symptoms = sum(word == "drifting" for word in components.values())
    verdict: Word = "stable"
    if symptoms >= SYMPTOMS_OF_DRIFT:
        verdict = "drifting"
    elif reasons:
        verdict = "watch"

    frozen, motion = metrics.get("frozen_share"), metrics.get("motion_level")
    if frozen is not None and frozen > FROZEN_SHARE:
        notes.append(f"{frozen:.0%} of the frames repeat the one before: low drift means little")
        verdict = "watch" if verdict == "stable" else verdict
    elif motion is not None and motion < STILL:
        notes.append(f"hardly moves ({motion:.2g} px/frame): low drift means little")
        verdict = "watch" if verdict == "stable" else verdict
    if cut_times:
        times = ", ".join(f"{time:.1f}" for time in cut_times[:6])
        more = ", ..." if len(cut_times) > 6 else ""
        plural = "cut" if len(cut_times) == 1 else "cuts"
        notes.insert(
            0,
            f"{len(cut_times)} {plural} at {times}{more} s: start and end may show different "
            "scenes, then drift means nothing",
        )
    return Verdict(verdict, components, tuple(reasons), tuple(notes))
