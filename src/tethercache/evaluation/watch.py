"""Drift while a video is made: what the verdict needs, measured on the stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tethercache.evaluation.drift import DEFAULT_PROTOCOL, start_end
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.metrics.metric import Change
from tethercache.evaluation.options import Options
from tethercache.evaluation.recording import Numbers, Recording
from tethercache.evaluation.result import rounded
from tethercache.evaluation.verdict import THRESHOLDS, VERDICT_METRICS, Verdict, judge
from tethercache.state import State, check_fits

STATE_VERSION = 1

WATCHED = tuple(threshold.metric for threshold in THRESHOLDS)
_EARLY = 1.5 * DEFAULT_PROTOCOL.seconds
_LONGER = 1.1  # judge again when the video has grown by this: the cost stays in proportion


class DriftWatch:
    """Compares the newest seconds with the first ones as frames come in.

    It measures what the verdict needs, and as `tethercache eval` does: at the end of a video of any
    length, changes, verdict and onsets are those of `eval` for these frames, which its file holds
    up to compression. It keeps about 20 kB for a second of video.

    Args:
        fps: frames a second.
        every: measure every n-th frame; default that of `tethercache eval`.
    """

    def __init__(self, fps: float, every: int = Options.every) -> None:
        self.every = every
        self._fps = fps
        self._recording = Recording({name: METRICS.parse(name) for name in VERDICT_METRICS}, every)
        self._judged: tuple[float, str] = (0.0, "")

    def update(self, frames: npt.NDArray[np.uint8]) -> None:
        """Look at the next frames, uint8 `[F, H, W, 3]`."""
        for rgb in np.asarray(frames):
            self._recording.add(len(self._recording.times) / self._fps, rgb)

    def state_dict(self) -> State:
        """All that the watch has to remember between two calls; see `tethercache.state`."""
        return {
            "made_for": self._made_for(),
            "measured": self._recording.state_dict(),
            "judged": list(self._judged),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another watch was; forget what is here.

        Raises:
            ValueError: naming what differs; nothing has changed then.
        """
        check_fits("drift watch", state, self._made_for())
        self._recording.load_state_dict(state["measured"])
        seconds, word = state["judged"]
        self._judged = (seconds, word)

    def _made_for(self) -> State:
        metrics = list(self._recording.metrics)
        return {
            "version": STATE_VERSION,
            "fps": float(self._fps),
            "every": self.every,
            "metrics": metrics,
        }

    @property
    def _seconds(self) -> float:
        return len(self._recording.times) / self._fps

    def changes(self) -> dict[str, float | None]:
        """The change of each metric from the first to the newest seconds; None: not to be had."""
        found: dict[str, float | None] = {}
        for name in WATCHED:
            series = self._recording.series(name, self._seconds)
            metric = self._recording.metrics[name]
            found[name] = None
            if series is not None and isinstance(metric, Change):
                found[name] = start_end(series, DEFAULT_PROTOCOL, metric.change)
        return found

    def now(self) -> dict[str, Any] | None:
        """The verdict of late, `word`, and the `changes`; None in the first seconds."""
        if self._seconds < _EARLY:
            return None
        made: dict[str, Any] = rounded({"word": self._word(), "changes": self.changes()})
        return made

    def status(self) -> str:
        """One short text for a progress line; empty in the first seconds."""
        if self._seconds < _EARLY:
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
        return " · ".join([self._word(), *parts]) if parts else ""

    def _word(self) -> str:
        """The verdict, at most a tenth of the video old."""
        judged_at, word = self._judged
        if self._seconds >= _LONGER * judged_at:
            word = self._recording.summarise(self._seconds).verdict.word
            self._judged = (self._seconds, word)
        return word

    def judge(self, without: Collection[str] = ()) -> Verdict | None:
        """The verdict about all frames so far, by all metrics but some; None: too few frames."""
        found = self._found()
        if found is None:
            return None
        known = {name: value for name, value in found.metrics.items() if name not in without}
        return judge(known, found.evidence) if without else found.verdict

    def _found(self) -> Numbers | None:
        """All numbers, unless there are too few frames for `tethercache eval`."""
        if not self._recording.times or not self._recording.is_long_enough:
            return None
        found = self._recording.summarise(self._seconds)
        return found if found.can_tell else None

    def summary(self) -> dict[str, Any]:
        """For the record of the video: changes, verdict and its reasons, and the onsets.

        The verdict is None for a video that `tethercache eval` finds too short.
        """
        found = self._found()
        verdict = found.verdict if found is not None else None
        made: dict[str, Any] = rounded(
            {
                "protocol": DEFAULT_PROTOCOL.name,
                "every": self.every,
                "verdict": verdict.word if verdict else None,
                "reasons": list(verdict.reasons) if verdict else [],
                "notes": list(verdict.notes) if verdict else [],
                "changes": self.changes(),
                "onset": found.onset if found is not None else {},
            }
        )
        return made
