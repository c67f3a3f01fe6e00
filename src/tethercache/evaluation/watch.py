"""Drift while a video is made: the cheap metrics on the stream, in constant memory."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from tethercache.evaluation.drift import DEFAULT_PROTOCOL, start_end
from tethercache.evaluation.measure import Options, rounded
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Change, Series
from tethercache.evaluation.verdict import THRESHOLDS, judge

WATCHED = ("colour_difference", "chroma", "log_sharpness", "motion_retention")


class DriftWatch:
    """Compares the newest seconds with the first ones as frames come in.

    It keeps what was measured in the first and in the newest 5 s, which is all that the default
    protocol compares. So at the end of a video the changes are those of `tethercache eval` for
    these frames, which its file holds up to compression. The verdict rests on them alone, and knows
    nothing of cuts and stillness. The onset is when the newest 5 s, not a single second, were
    beyond a threshold.

    Args:
        fps: frames a second.
        every: measure every n-th frame; default that of `tethercache eval`.
    """

    def __init__(self, fps: float, every: int = Options.every) -> None:
        self.every = every
        self._fps = fps
        self._metrics: dict[str, Change] = {name: METRICS.parse(name) for name in WATCHED}
        # frame numbers and measurements; the newest seconds begin behind the first ones
        self._first: dict[str, list[tuple[int, Any]]] = {name: [] for name in WATCHED}
        self._newest: dict[str, deque[tuple[int, Any]]] = {name: deque() for name in WATCHED}
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
        if not self._can_tell():
            return
        now = self.changes()
        for threshold in THRESHOLDS:
            value = now[threshold.metric]
            began = self._onset[threshold.metric]
            if began is None and value is not None:
                is_drift = threshold.is_beyond(value, threshold.drifting)
                self._onset[threshold.metric] = self._seen / self._fps if is_drift else None

    def _measure(self, frame: Frame) -> None:
        seconds = DEFAULT_PROTOCOL.seconds
        for name, metric in self._metrics.items():
            newest = self._newest[name]
            value = metric.measure(frame)
            if value is not None:
                kept = self._first[name] if frame.time < seconds else newest
                kept.append((frame.index, value))
            while newest and newest[0][0] / self._fps < frame.time - seconds:
                newest.popleft()

    def _can_tell(self) -> bool:
        """Whether enough was seen to say something before the end: half of a stretch more."""
        return self._seen >= 1.5 * DEFAULT_PROTOCOL.seconds * self._fps

    def changes(self) -> dict[str, float | None]:
        """The change of each metric so far; None where there is nothing to compare."""
        return {
            name: start_end(self._series(name), DEFAULT_PROTOCOL, metric.change)
            for name, metric in self._metrics.items()
        }

    def _series(self, name: str) -> Series:
        """What is kept of one metric."""
        kept = [*self._first[name], *self._newest[name]]
        indices = np.array([index for index, _ in kept], dtype=np.int64)
        values = np.array([value for _, value in kept], dtype=np.float64)
        return Series(indices, indices / self._fps, values, self._seen / self._fps)

    def status(self) -> str:
        """One short text for a progress line; empty in the first seconds."""
        if not self._can_tell():
            return ""
        now, parts = self.changes(), []
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
        """For the record of the video: last changes, verdict, and when each symptom began.

        The verdict is None for a video that is too short to have one, or an onset.
        """
        now = self.changes()
        made: dict[str, Any] = rounded(
            {
                "protocol": DEFAULT_PROTOCOL.name,
                "every": self.every,
                "verdict": judge(now).word if self._can_tell() else None,
                "changes": now,
                "onset": self._onset,
            }
        )
        return made
