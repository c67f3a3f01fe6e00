"""Drift while a video is made: the cheap metrics on the stream, in constant memory."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from tethercache.evaluation.drift import DEFAULT_PROTOCOL
from tethercache.evaluation.measure import rounded
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Change, Values
from tethercache.evaluation.verdict import THRESHOLDS, judge

WATCHED = ("colour_difference", "chroma", "log_sharpness", "motion_retention")


class DriftWatch:
    """Compares the newest seconds with the first ones as frames come in.

    The first seconds are kept as they are, the newest move on. At the end of a video the numbers
    are those of `tethercache eval`, up to the compression of the file.

    Args:
        fps: frames a second.
        every: measure every n-th frame.
    """

    def __init__(self, fps: float, every: int = 4) -> None:
        self.every = every
        self._fps = fps
        self._window = max(2, round(DEFAULT_PROTOCOL.seconds * fps / every))
        self._metrics: dict[str, Change] = {name: METRICS.parse(name) for name in WATCHED}
        self._start: dict[str, list[Any]] = {name: [] for name in WATCHED}
        self._last: dict[str, deque[Any]] = {name: deque(maxlen=self._window) for name in WATCHED}
        self._seen = 0
        self._before: Frame | None = None
        self._onset: dict[str, float | None] = {t.metric: None for t in THRESHOLDS}

    def update(self, frames: npt.NDArray[np.uint8]) -> None:
        """Look at the next frames, uint8 `[F, H, W, 3]`."""
        for rgb in np.asarray(frames):
            frame = Frame(self._seen, self._seen / self._fps, rgb, self._before)
            if self._seen % self.every == 0:
                self._measure(frame)
            frame.forget_previous()
            self._before = frame
            self._seen += 1
        now = self.changes()
        for threshold in THRESHOLDS:
            value = now[threshold.metric]
            began = self._onset[threshold.metric]
            if began is None and value is not None:
                is_drift = threshold.is_beyond(value, threshold.drifting)
                self._onset[threshold.metric] = self._seen / self._fps if is_drift else None

    def _measure(self, frame: Frame) -> None:
        for name, metric in self._metrics.items():
            value = metric.measure(frame)
            if value is None:
                continue
            if len(self._start[name]) < self._window:
                self._start[name].append(value)
            else:
                self._last[name].append(value)

    def changes(self) -> dict[str, float | None]:
        """The change of each metric so far; None before there is half a stretch to compare."""
        found: dict[str, float | None] = {}
        for name, metric in self._metrics.items():
            last = self._last[name]
            enough = 2 * len(last) >= self._window
            start = self._start[name]
            found[name] = metric.change(_array(start), _array(last)) if enough else None
        return found

    def status(self) -> str:
        """One short text for a progress line; empty before there is something to compare."""
        now = self.changes()
        parts = []
        if (colour := now["colour_difference"]) is not None:
            parts.append(f"ΔE {colour:.1f}")
        if (chroma := now["chroma"]) is not None:
            parts.append(f"chroma {chroma:+.1f}")
        if (sharpness := now["log_sharpness"]) is not None:
            parts.append(f"sharpness x{np.exp(sharpness):.2f}")
        if (motion := now["motion_retention"]) is not None:
            parts.append(f"motion {motion:.0%}")
        return " · ".join([judge(now).word, *parts]) if parts else ""

    def summary(self) -> dict[str, Any]:
        """For the record of the video: last changes, verdict, and when each symptom began."""
        now = self.changes()
        verdict = judge(now)
        known = any(value is not None for value in now.values())
        made: dict[str, Any] = rounded(
            {
                "protocol": DEFAULT_PROTOCOL.name,
                "every": self.every,
                "verdict": verdict.word if known else None,
                "changes": now,
                "onset": self._onset,
            }
        )
        return made


def _array(values: Any) -> Values:
    return np.asarray(list(values), dtype=np.float64)
