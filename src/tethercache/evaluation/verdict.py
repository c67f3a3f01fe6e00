"""From numbers to a word: stable, watch or drifting, by one table of thresholds.

A video drifts if one symptom is extreme, if three are beyond their thresholds at the same time, or
if two are and each of them clearly. One alone that is not extreme can be what the prompt asked for,
and so can two that are only just there, such as the light and the colours of a storm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tethercache.evaluation.evidence import Evidence, Window
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.shots import Edit

Word = Literal["stable", "watch", "drifting"]


@dataclass(frozen=True)
class Threshold:
    """From where on a metric asks for a look, and from where on it speaks of drift.

    Attributes:
        component: the symptom that the metric measures.
        metric: its registered name.
        watch: a value worse than this is worth a look.
        drifting: a value worse than this is a symptom of drift.
        extreme: a value worse than this is drift by itself; None if none is.
        most: the largest threshold of drift by itself, however much is tolerated; None: no bound.
        falls: by how much more a change may fall than rise; 1 if the sign does not matter.
        provenance: where the numbers come from.
    """

    component: str
    metric: str
    watch: float
    drifting: float
    extreme: float | None
    provenance: str
    falls: float = 1.0
    most: float | None = None

    def word(self, value: float) -> Word:
        """Judge one value."""
        if self.is_beyond(value, self.drifting):
            return "drifting"
        return "watch" if self.is_beyond(value, self.watch) else "stable"

    @property
    def is_ratio(self) -> bool:
        """Whether the metric falls from 1 on, so that less is worse and nothing is tolerated."""
        return METRICS[self.metric].better == "higher"

    def is_beyond(self, value: float, limit: float) -> bool:
        """Whether a value is worse than a limit."""
        return value < limit if self.is_ratio else abs(value) / self._weight(value) > limit

    def limit(self, tolerance: float) -> float:
        """The threshold of drift in a window of this tolerance."""
        return self.drifting if self.is_ratio else self.drifting * tolerance

    def is_extreme(self, value: float, tolerance: float = 1.0) -> bool:
        """Whether a value is drift by itself in a window of this tolerance."""
        if self.extreme is None:
            return False
        limit = self.extreme * tolerance
        return self.is_beyond(value, limit if self.most is None else min(limit, self.most))

    def severity(self, value: float, tolerance: float) -> float:
        """How far a value is beyond the threshold of drift; 1: just there."""
        return self.share_of(value, self.limit(tolerance))

    def share_of(self, value: float, limit: float) -> float:
        """How many times as bad as a limit a value is."""
        if self.is_ratio:
            return limit / max(value, 1e-3)
        return abs(value) / self._weight(value) / limit

    def _weight(self, value: float) -> float:
        return self.falls if value < 0 else 1.0


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "colour",
        "colour_difference",
        watch=7.0,
        drifting=9.0,
        extreme=12.0,
        most=30.0,
        provenance="least drift seen by eye 9.8 and 13.2; still stable scenes up to 6.5, "
        "legitimate changes up to 25",
    ),
    Threshold(
        "saturation",
        "chroma",
        watch=7.0,
        drifting=9.0,
        extreme=18.0,
        most=36.0,
        falls=1.1,
        provenance="least drift seen by eye -8.9, beside colour; still stable scenes up to 5, "
        "lightning up to 35",
    ),
    Threshold(
        "sharpness",
        "log_sharpness",
        watch=0.2,
        drifting=0.25,
        extreme=0.7,
        most=0.9,
        provenance="least drift seen by eye 0.45; still stable scenes up to 0.19, "
        "legitimate changes up to 0.65",
    ),
    Threshold(
        "texture",
        "texture",
        watch=0.25,
        drifting=0.35,
        extreme=0.35,
        most=0.5,
        provenance="blocks of 4 pixels 0.39 to 0.73; still stable scenes up to 0.16, "
        "legitimate changes up to 0.28",
    ),
    Threshold(
        "motion collapse",
        "motion_retention",
        watch=0.5,
        drifting=0.5,
        extreme=None,
        provenance="published pairs: means 0.32 for the baseline, 0.77 for TetherCache",
    ),
)
"""Changes of a window against the start of its shot; thresholds grow with what is tolerated."""

WHOLE: tuple[Threshold, ...] = (
    Threshold(
        "flicker",
        "flicker",
        watch=2.0,
        drifting=3.0,
        extreme=3.0,
        provenance="lightning 1.2; frames that alternate by 10 up and down: 9",
    ),
    Threshold(
        "repetition",
        "repetition",
        watch=0.3,
        drifting=0.4,
        extreme=0.4,
        provenance="cutting to and fro between two scenes 0.33; loops of 5 s 0.83",
    ),
    Threshold(
        "freeze",
        "frozen_seconds",
        watch=3.0,
        drifting=5.0,
        extreme=5.0,
        provenance="the length of a window; no clip without a fault stood still for a second",
    ),
)
"""Symptoms of a whole video."""

VERDICT_METRICS: tuple[str, ...] = (
    *(threshold.metric for threshold in (*THRESHOLDS, *WHOLE)),
    "motion_level",
    "frozen_share",
    "layout_persistence",
    "cuts",
)
"""The metrics that a verdict needs: thresholds, tolerance, edits and stillness."""

SYMPTOMS_OF_DRIFT = 3
"""So many at the same time are drift."""
CLEAR_SYMPTOMS = 2
CLEARLY = 1.1
"""And so many of which each is by this factor beyond its threshold."""
FROZEN_SHARE = 0.5
"""A video of which more than this is frozen is never called stable."""
EMPTY_SHARE = 0.5
"""Nor one of which more than this shows next to nothing."""
STILL = 0.05
"""Motion below this, pixels a frame, is none."""


@dataclass(frozen=True)
class Verdict:
    """What is said about one video.

    Attributes:
        word: the verdict.
        components: the verdict of each component that was measured.
        reasons: what led to it, one sentence each.
        notes: what the reader must know beside it, above all edits and stillness.
    """

    word: Word
    components: Mapping[str, Word]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Symptom:
    threshold: Threshold
    value: float
    limit: float
    word: Word
    is_extreme: bool = False
    where: str = ""

    @property
    def severity(self) -> float:
        """How far the value is beyond the limit; 1: just there."""
        return self.threshold.share_of(self.value, self.limit)

    def __str__(self) -> str:
        sign = "<" if self.threshold.is_ratio else ">"
        return (
            f"{self.threshold.component}: {self.threshold.metric} {abs(self.value):.3g} "
            f"{sign} {self.limit:.3g}{self.where}"
        )


def judge(metrics: Mapping[str, float | None], evidence: Evidence | None = None) -> Verdict:
    """Judge a video by its metrics and windows; what was not measured is left out."""
    evidence = evidence or Evidence()
    found: dict[str, _Symptom | None] = {}
    worst = max(map(_in_window, evidence.windows), key=_severity, default=())
    is_one_shot = all(edit.kind == "flash" for edit in evidence.edits)
    for threshold in THRESHOLDS:
        value = metrics.get(threshold.metric)
        if value is not None and not is_one_shot:  # start and end are of different scenes
            found[threshold.component] = None
        elif value is not None:
            cap: Word = "drifting" if threshold.is_ratio else "watch"
            found[threshold.component] = _whole(threshold, value, cap)
    drifts = _drifts(worst)
    for symptom in worst if drifts or any(s.threshold.extreme for s in worst) else ():
        component = symptom.threshold.component
        known = found.get(component)
        if known is None or symptom.word == "drifting":
            found[component] = symptom
    whole = {**metrics, "frozen_seconds": evidence.frozen}
    for threshold in WHOLE:
        value = whole[threshold.metric] if threshold.metric in metrics else None
        if value is not None:
            symptom_ = found[threshold.component] = _whole(threshold, value)
            drifts = drifts or bool(symptom_ and symptom_.is_extreme)
    components: dict[str, Word] = {c: s.word if s else "stable" for c, s in found.items()}
    reasons = [str(symptom) for symptom in found.values() if symptom]
    if evidence.replaced is not None:
        components["replacement"], drifts = "drifting", True
        reasons.append(
            f"replacement: a part of the picture is another from {evidence.replaced:.1f} s on"
        )
    word: Word = "drifting" if drifts else "watch" if reasons else "stable"
    still = _stillness(metrics, evidence)
    if still and word == "stable":
        word = "watch"
    notes = (*_edit_notes(evidence.edits), *([still] if still else []))
    return Verdict(word, components, tuple(reasons), notes)


def _whole(threshold: Threshold, value: float, cap: Word = "drifting") -> _Symptom | None:
    word = threshold.word(value)
    if word == "stable":
        return None
    if cap == "watch":
        word = "watch"
    limit = threshold.drifting if word == "drifting" else threshold.watch
    extreme = word == "drifting" and threshold.is_extreme(value)
    return _Symptom(threshold, value, limit, word, extreme)


def _in_window(window: Window) -> tuple[_Symptom, ...]:
    """The symptoms of one window."""
    found = []
    for threshold in THRESHOLDS:
        value = window.changes.get(threshold.metric)
        if value is None:
            continue
        limit = threshold.limit(window.tolerance)
        extreme = threshold.is_extreme(value, window.tolerance)
        if extreme or threshold.is_beyond(value, limit):
            limit = min(limit, threshold.most or limit)
            where = f" at {window.begin:.0f} to {window.end:.0f} s"
            found.append(_Symptom(threshold, value, limit, "drifting", extreme, where))
    return tuple(found)


def _drifts(symptoms: Sequence[_Symptom]) -> bool:
    clear = sum(symptom.severity >= CLEARLY for symptom in symptoms)
    return (
        any(symptom.is_extreme for symptom in symptoms)
        or len(symptoms) >= SYMPTOMS_OF_DRIFT
        or clear >= CLEAR_SYMPTOMS
    )


def _severity(symptoms: Sequence[_Symptom]) -> tuple[bool, int, float]:
    sizes = [s.severity for s in symptoms if s.threshold.extreme is not None]
    return _drifts(symptoms), len(symptoms), sum(sizes)


def furthest(evidence: Evidence, threshold: Threshold) -> Window | None:
    """The window in which a metric is worst for what is tolerated there; None if in none."""

    def severity(window: Window) -> float:
        value = window.changes.get(threshold.metric)
        return -1.0 if value is None else threshold.severity(value, window.tolerance)

    worst = max(evidence.windows, key=severity, default=None)
    return None if worst is None or severity(worst) < 0 else worst


def _stillness(metrics: Mapping[str, float | None], evidence: Evidence) -> str:
    if evidence.empty > EMPTY_SHARE:
        return f"{evidence.empty:.0%} of the frames show next to nothing: low drift means nothing"
    frozen, motion = metrics.get("frozen_share"), metrics.get("motion_level")
    if frozen is not None and frozen > FROZEN_SHARE:
        return f"{frozen:.0%} of the frames repeat the one before: low drift means little"
    if motion is not None and motion < STILL:
        return f"hardly moves ({motion:.2g} px/frame): low drift means little"
    return ""


def _edit_notes(edits: Sequence[Edit]) -> list[str]:
    notes = []
    for kind in dict.fromkeys(edit.kind for edit in edits):
        times = [edit.begin for edit in edits if edit.kind == kind]
        shown = ", ".join(f"{time:.1f}" for time in times[:6]) + (", ..." if len(times) > 6 else "")
        plural = kind if len(times) == 1 else f"{kind}es" if kind == "flash" else f"{kind}s"
        text = f"{len(times)} {plural} at {shown} s"
        if kind != "flash":
            text += ": start and end may show different scenes, drift is measured inside the shots"
        notes.append(text)
    return notes
