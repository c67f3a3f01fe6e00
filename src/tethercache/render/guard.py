"""The guard: where a video drifts while it is made, it goes back, and tries something else.

The drift watch judges the video now and then. If it has found drift for `PATIENCE` seconds, the
video goes back to the last state that is known to be good, and goes on with the next reaction of a
list: other noise, the context pass that reads the newest frames only, a stronger alignment. Each is
tried once, so a guard comes to an end. What it did is in the record, as changes over time that make
the same video again without a guard.

States are kept every `PROOF` seconds of video; one is good when nothing is found up to the next.
All of this depends on frames alone, never on the clock: a guarded video, too, is the same file
after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tethercache.policies import POLICIES, as_policy
from tethercache.policies.commit_read import CommitRead
from tethercache.policies.tethercache import TetherCache
from tethercache.script import Change
from tethercache.state import State

if TYPE_CHECKING:
    from tethercache.render.recording import Recording

PATIENCE = 4.0
"""Seconds of video for which drift must have been found."""

PROOF = 6.0
"""Seconds of video from one kept state to the next, after which it is good."""

OVERLOOKED = ("repetition",)
"""Metrics that do not count: a ball that rolls to and fro repeats itself, and is no drift."""

_GROWTH = 1.02  # judge again when the video has grown by this, so that the cost stays in proportion


@dataclass(frozen=True)
class Situation:
    """What holds where a reaction is looked for.

    Attributes:
        second: where the video goes on.
        seed: of the noise.
        policy: spec of what the model remembers.
    """

    second: float
    seed: int
    policy: str


Reaction = Callable[[Situation], Change | None]
"""What to do otherwise; None if it does not apply."""


def other_noise(here: Situation) -> Change | None:
    """Another seed, which follows from the present one."""
    digest = hashlib.blake2b(f"guard,{here.seed}".encode(), digest_size=4).digest()
    return Change(here.second, seed=int.from_bytes(digest, "big"))


def commit_read(here: Situation) -> Change | None:
    """Let the context pass read the newest frames only."""
    policy = as_policy(here.policy)
    if isinstance(policy, CommitRead):
        return None
    return Change(here.second, policy=POLICIES.spec(CommitRead(policy), full=True))


def stronger_alignment(here: Situation) -> Change | None:
    """Twice TAME's strength."""
    policy = as_policy(here.policy)
    inside = policy.of if isinstance(policy, CommitRead) else policy
    if not isinstance(inside, TetherCache) or inside.tau >= 1:
        return None
    stronger = replace(inside, tau=min(1.0, 2 * inside.tau or 0.35))
    whole = replace(policy, of=stronger) if isinstance(policy, CommitRead) else stronger
    return Change(here.second, policy=POLICIES.spec(whole, full=True))


REACTIONS: Mapping[str, Reaction] = {
    "other noise": other_noise,
    "commit-read": commit_read,
    "stronger alignment": stronger_alignment,
}
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Return:
    """A decision to go back.

    Attributes:
        state: where to.
        change: what to do otherwise from there on.
        said: what has happened, in a sentence.
    """

    state: State
    change: Change
    said: str


class Guard:
    """Watches one video in the making.

    Args:
        start: the state of render and recording before the first frame.
        seed: of the noise.
        policy: spec of what the model remembers.
        reactions: what to try, by name.

    Attributes:
        changes: what was done, in order.
    """

    def __init__(
        self,
        start: State,
        seed: int,
        policy: str,
        reactions: Mapping[str, Reaction] = REACTIONS,
    ) -> None:
        self.changes: list[Change] = []
        self._known = reactions
        self._left = list(reactions)
        self._good, self._good_at = start, 0.0
        self._candidate: State | None = None
        self._candidate_at = 0.0
        self._seed, self._policy = seed, policy
        self._judged = 0.0  # the second of the latest judgement
        self._since: float | None = None  # the second since when there is drift
        self._events: list[dict[str, Any]] = []

    def wants(self, recording: Recording, chunks: int) -> bool:
        """Whether the state after so many chunks shall be kept: every `PROOF` seconds or so."""
        if not self._left or recording.segment is None or not recording.at_border(chunks):
            return False
        latents = sum(recording.record.chunk_sizes[: recording.segment.chunks])
        segment = float(4 * latents / recording.record.fps)
        return not chunks // recording.segment.chunks % max(1, round(PROOF / segment))

    def keep(self, recording: Recording, state: State) -> None:
        """Keep the state at the border just written, if it was wanted and nothing is wrong."""
        if not self.wants(recording, recording.chunks) or self._since is not None:
            return
        if self._candidate is not None:  # nothing was found since: it has proved good
            self._good, self._good_at = self._candidate, self._candidate_at
        self._candidate, self._candidate_at = state, recording.seconds

    def look(self, recording: Recording) -> Return | None:
        """Judge the video at a border, now and then, and decide.

        Returns:
            Where to go back to; None: go on.
        """
        second = recording.seconds
        if not self._left or not recording.at_border(recording.chunks):
            return None
        if second < _GROWTH * self._judged:
            return None
        self._judged = second
        verdict = recording.judge(without=OVERLOOKED)
        if verdict is None or verdict.word != "drifting":
            self._since = None
            return None
        if self._since is None:
            self._since = second
        if second < self._since + PATIENCE:
            return None
        back = self._react(second, verdict.reasons)
        self.note(recording)
        return back

    def note(self, recording: Recording) -> None:
        """Let the record say what was done."""
        recording.note(guard=list(self._events))

    def _react(self, second: float, reasons: Sequence[str]) -> Return | None:
        """Go back, and try the first reaction that applies; each is tried once."""
        here = Situation(max(self._good_at, 1e-3), self._seed, self._policy)
        event = {"found_at": round(second, 3), "reasons": list(reasons)}
        while self._left:
            name = self._left.pop(0)
            change = self._known[name](here)
            if change is None:
                continue
            self._seed = self._seed if change.seed is None else change.seed
            self._policy = str(change.policy or self._policy)
            self._candidate, self._since, self._judged = None, None, self._good_at
            self.changes.append(change)
            back = round(self._good_at, 3)
            told = {"back_to": back, "reaction": name, "change": change.to_dict()}
            self._events.append({**event, **told})
            said = f"drift at second {second:.1f} ({'; '.join(reasons)}): back to {back:.1f}"
            return Return(self._good, change, f"{said}, {name}")
        self._events.append({**event, "reaction": "none is left"})
        return None

    def state_dict(self) -> State:
        """All that has to be remembered at a border; see `tethercache.state`."""
        return {
            "good": self._good,
            "good_at": self._good_at,
            "candidate": self._candidate,
            "candidate_at": self._candidate_at,
            "seed": self._seed,
            "policy": self._policy,
            "left": list(self._left),
            "judged": self._judged,
            "since": self._since,
            "changes": [change.to_dict() for change in self.changes],
            "events": list(self._events),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another guard of this video was."""
        for name in ("good", "good_at", "candidate", "candidate_at", "seed", "policy", "judged"):
            setattr(self, f"_{name}", state[name])
        self._left, self._since = list(state["left"]), state["since"]
        self.changes = [Change.from_dict(change) for change in state["changes"]]
        self._events = list(state["events"])
