"""Changes over time: another prompt, another seed, frames to keep or to forget, from a second on.

    seconds: 60
    prompts:
      - {at: 0, text: a red ball rolling over grass}
      - {at: 20, text: a blue cube bouncing over sand, how: recache}

A change takes effect at the first chunk that begins at or after its second, and never before the
first generated one. Loads no torch of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.arguments import SEEDS, instance, number, one_of, positive, whole_number
from tethercache.policies import POLICIES, as_policy
from tethercache.prompts import check_prompt, check_text, read_text
from tethercache.registry import check_keys
from tethercache.rollout.actions import HOWS
from tethercache.rollout.plan import MAX_FRAMES, Plan, first_frame

if TYPE_CHECKING:
    from tethercache.cache import Policy


@dataclass(frozen=True)
class Change:
    """What changes from a second of the video on; at least one of all but `at` and `how`.

    Attributes:
        at: the second, above 0.
        text: the new prompt.
        how: `soft`: what is remembered stays as it is; `recache`: it is read again under the new
            prompt; `cut`: the first and the newest frames stay, and a new shot begins.
        seed: of the noise from here on.
        policy: what the model remembers from here on, or its spec: a policy of the same sizes.
        pin: seconds `(start, stop)` of the video so far, whose frames shall stay in memory.
        forget: seconds `(start, stop)` of the video so far, whose frames shall never be seen again.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """

    at: float
    text: str | None = None
    how: str = "soft"
    seed: int | None = None
    policy: Policy | str | None = None
    pin: tuple[float, float] | None = None
    forget: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._set("at", _second("at", positive("at", self.at)))
        one_of("how", self.how, HOWS)
        if self.text is not None:
            self._set("text", check_prompt(instance("text", self.text, str, "a text"), "`text`"))
        elif self.how != "soft":
            raise ValueError(f"`how` ({self.how}) needs a `text`")
        if self.seed is not None:
            self._set("seed", whole_number("seed", self.seed, *SEEDS))
        if isinstance(self.policy, str):
            check_text(self.policy, "`policy`")
        elif self.policy is not None:
            self._set("policy", POLICIES.spec(as_policy(self.policy), full=True))
        for name in ("pin", "forget"):
            if getattr(self, name) is not None:
                self._set(name, _span(name, getattr(self, name), self.at))
        if not self.to_dict().keys() - {"at", "how"}:
            raise ValueError("a change must have a `text`, `seed`, `policy`, `pin` or `forget`")

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON has it: what is set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.text is None:
            del values["how"]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Change:
        """The change that `to_dict` described.

        Raises:
            ValueError: for an unknown key, a wrong type or value, each by its name.
        """
        values = instance("change", given, Mapping, "an object with `at` and what changes")
        check_keys("change", values, [f.name for f in fields(cls)])
        if "at" not in values:
            raise ValueError("a change must have an `at`, the second from which it holds")
        return cls(**values)

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read `SECOND[ HOW]: TEXT`; the second may be `M:SS`.

        Raises:
            ValueError: if it is not of this form, or what it says cannot be.
        """
        check_text(text, "`then`")
        found = _FLAG.fullmatch(text)
        if found is None:
            raise ValueError(
                f"`then` ({text}) must have the form SECOND: TEXT or SECOND HOW: TEXT, such as "
                f"20 cut: a blue cube; HOW is {', '.join(HOWS)}"
            )
        minutes, seconds, how, prompt = found.groups()
        try:
            return cls(60 * int(minutes or 0) + float(seconds), prompt, how or "soft")
        except ValueError as error:
            raise ValueError(f"`then` ({text}): {error}") from None

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Branch:
    """Where a video comes from; its frames do not depend on it.

    Attributes:
        video: path of the parent.
        at: the second at which it leaves it.
    """

    video: str
    at: float

    def __post_init__(self) -> None:
        check_text(instance("branch", self.video, str, "the path of a video"), "`branch`")
        number("branch.at", self.at, 0)

    def at_path(self, video: str) -> Branch:
        """The same, where the parent's path is another."""
        return Branch(video, self.at)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Branch:
        """The branch that `dataclasses.asdict` described.

        Raises:
            ValueError: for a wrong key, type or value, by its name.
        """
        values = instance("branch", given, Mapping, "an object with `video` and `at`")
        check_keys("branch", values, [f.name for f in fields(cls)])
        if values.keys() != {"video", "at"}:
            raise ValueError("a branch must have a `video` and an `at`")
        return cls(**values)


_FLAG = re.compile(r"\s*(?:(\d{1,6}):)?(\d{1,9}(?:\.\d{0,9})?)(?:\s+(\w+))?\s*:(.*)", re.DOTALL)


def in_order(then: Iterable[Any]) -> tuple[Change, ...]:
    """Changes by their second; those at the same second keep their order.

    Raises:
        ValueError: if they are not changes.
    """
    given = instance("then", then, list | tuple, "a list of changes")
    for change in given:
        instance("then", change, Change, "a list of changes")
    return tuple(sorted(given, key=lambda change: change.at))


def changes_from(name: str, given: Any, since: int = 0) -> tuple[Change, ...]:
    """The changes that a list in JSON or YAML describes, from entry `since` on.

    Raises:
        ValueError: naming the list, the entry by its number, and what is wrong.
    """
    changes = []
    for place, entry in enumerate(instance(name, given, list, "a list of changes")):
        try:
            changes += [Change.from_dict(entry)] if place >= since else []
        except ValueError as error:
            raise ValueError(f"`{name}[{place}]`: {error}") from None
    return in_order(changes)


def texts_of(then: Iterable[Change]) -> list[str]:
    """The prompts in some changes, each once."""
    return list(dict.fromkeys(change.text for change in then if change.text is not None))


def changes_by_chunk(
    then: Sequence[Change], plan: Plan, fps: float | Fraction, frames_per_latent: int = 4
) -> dict[int, tuple[Change, ...]]:
    """The changes by the number of the chunk before which they take effect.

    Raises:
        ValueError: if no chunk begins at or after the second of one of them.
    """
    found: dict[int, tuple[Change, ...]] = {}
    for change in then:
        chunk = plan.at_or_after(change.at, fps, frames_per_latent)
        if chunk == plan.num_chunks:
            last = first_frame(plan[chunk - 1].start, frames_per_latent) / fps
            raise ValueError(
                f"`then` has a change at {change.at:.10g} s, but the last chunk of this video "
                f"begins at {float(last):.10g} s"
            )
        chunk = max(chunk, plan.first_generated)
        if chunk == plan.num_chunks:
            raise ValueError("`then` changes nothing, for all of this video is its prefix")
        found[chunk] = (*found.get(chunk, ()), change)
    return found


def begins(
    then: Sequence[Change], plan: Plan, fps: float | Fraction, frames_per_latent: int = 4
) -> list[dict[str, Any]]:
    """The changes for a record: as `Change.to_dict` has them, and the `frame` where each begins."""
    return [
        {"at": change.at, "frame": first_frame(plan[chunk].start, frames_per_latent)}
        | change.to_dict()
        for chunk, changes in changes_by_chunk(then, plan, fps, frames_per_latent).items()
        for change in changes
    ]


def check_policies(then: Iterable[Change], policy: Policy, plan: Plan) -> None:
    """Check that each policy can go on with what the one before it has kept.

    Args:
        then: the changes.
        policy: the first one.
        plan: the chunks.

    Raises:
        ValueError: if one cannot.
    """
    for change in then:
        if change.policy is not None:
            successor = as_policy(change.policy)
            successor.check_follows(policy, plan.chunk_size)
            plan.check(successor)
            policy = successor


@dataclass(frozen=True)
class Script:
    """A file of prompts over time.

    Attributes:
        prompt: the first one.
        then: the others, and what else changes.
        seconds: length of the video, if it says so.
        latent_frames: length in latent frames, if it says so.
    """

    prompt: str
    then: tuple[Change, ...]
    seconds: float | None = None
    latent_frames: int | None = None


def read_script(file: Path) -> Script:
    """Read a script in YAML.

    Args:
        file: its path; `-` is standard input.

    Raises:
        ValueError: naming the file, the entry and what is wrong with it.
    """
    name, text = read_text(file, "the script", _MAX_BYTES)
    try:
        return script_from(_load(text))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


_MAX_BYTES = 1 << 20
_KEYS = ("prompts", "seconds", "latent_frames")


def script_from(given: Any) -> Script:
    """The script that an object of JSON or YAML is.

    Raises:
        ValueError: naming the entry and what is wrong with it.
    """
    check_keys("script", instance("script", given, Mapping, "an object with `prompts`"), _KEYS)
    entries = instance("prompts", given.get("prompts"), list, "a list of prompts over time")
    first = dict(instance("prompts[0]", next(iter(entries), None), Mapping, "an object"))
    if first.keys() != {"at", "text"} or first["at"] != 0 or isinstance(first["at"], bool):
        raise ValueError("`prompts[0]` must be the prompt at 0: {at: 0, text: ...} and no more")
    prompt = check_prompt(instance("prompts[0]", first["text"], str, "a text"), "`prompts[0]`")
    then = changes_from("prompts", entries, since=1)
    return Script(prompt, then, given.get("seconds"), given.get("latent_frames"))


def _load(text: str) -> Any:
    """What a text in YAML says, in plain types; no tags of others, no aliases, no key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few lines of them can mean gigabytes
                event = self.get_event()
                raise yaml.MarkedYAMLError(None, None, "aliases are not allowed", event.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            made = super().construct_mapping(node, deep)
            if len(made) < len(node.value):
                raise yaml.MarkedYAMLError(None, None, "a key is there twice", node.start_mark)
            return made

    try:
        return yaml.load(text, Loader)  # a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(f"character U+{code:04X} is not allowed") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _second(name: str, value: Any) -> float:
    return float(number(name, value, 0, MAX_FRAMES))


def _span(name: str, given: Any, before: float) -> tuple[float, float]:
    """Two seconds of the video so far."""
    rule = "two seconds [start, stop]"
    span = instance(name, given, list | tuple, rule)
    if len(span) != 2:
        raise ValueError(f"`{name}` ({given}) must be {rule}")
    start, stop = (_second(name, second) for second in span)
    if not start < stop <= before:
        raise ValueError(
            f"`{name}` ({start:.10g} to {stop:.10g} s) must begin before it ends, and end at or "
            f"before {before:.10g} s, where the change is"
        )
    return start, stop
