"""Names to things: `name:key=value,...` becomes a frozen dataclass, and back.

Some things change another one, the one before them in a spec: `name:... + wrapper:...`. The first
field of such a class, `of`, holds it.

A registry maps a name to a lazily imported class with preset fields. It is how a policy gets its
name on the command line, in the sidecar of a video, in the tests and in the tables of the README:
one line here adds it to all of them.

Other packages add names by entry points, which are looked for once, when a name is not known here
or all are listed. Nothing of such a package is imported before its name is used.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import re
import sys
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        target: `module:Class` of a frozen dataclass.
        summary: one line for tables and `--help`.
        preset: fields that this name fixes as its defaults.
        source: paper or code that the entry implements.
        waives: invariants that the entry does not keep, each with the reason.
        wraps: whether it changes another thing, which its field `of` holds.
        package: the other package that has brought it, by an entry point; empty: none.
    """

    target: str
    summary: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    waives: Mapping[str, str] = field(default_factory=dict)
    wraps: bool = False
    package: str = ""


class Registry(Generic[T]):
    """Named, configurable classes of one kind, such as policies.

    Args:
        kind: what they are, for messages.
        entries: what is known of each name.
        groups: groups of entry points by which other packages add names, each with whether these
            change another thing. An entry point is `name = "module:Class"`.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, Entry], groups: Mapping[str, bool] | None = None
    ) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._groups = dict(groups or {})

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            self._discover()
        if name not in self._entries:
            raise ValueError(f"unknown {self.kind} `{name}`{nearest(name, self._entries)}")
        return self._entries[name]

    def load(self, name: str) -> type[T]:
        """Import the class behind a name.

        Raises:
            ValueError: if the package that has brought the name cannot be imported, or lacks it.
        """
        entry = self[name]
        module, _, attribute = entry.target.partition(":")
        try:
            loaded: type[T] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if not entry.package:
                raise
            raise ValueError(
                f"the {self.kind} `{name}` of {entry.package} cannot be loaded: {error}"
            ) from error
        return loaded

    def add(self, name: str, entry: Entry) -> None:
        """Register one more name, for example from outside the package.

        Raises:
            ValueError: if the name is taken, or would not survive in a spec.
        """
        if name in self._entries:
            raise ValueError(f"the {self.kind} `{name}` is registered already")
        if not _NAME.fullmatch(name):
            raise ValueError(f"`{name}` must consist of a-z, 0-9 and `-`, and begin with a letter")
        self._entries[name] = entry

    def _discover(self) -> None:
        """Add the names that other packages bring. Names that are taken stay what they are."""
        groups, self._groups = self._groups, {}
        for group, wraps in groups.items():
            for point in importlib.metadata.entry_points(group=group):
                package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
                package = package or point.module
                entry = Entry(point.value, f"from {package}", wraps=wraps, package=package)
                try:
                    self.add(point.name, entry)
                except ValueError as error:
                    warnings.warn(f"{package} is left out: {error}", stacklevel=3)

    def fields(self, name: str) -> dict[str, Any]:
        """Every key that a spec of this name may set, with its default."""
        cls: Any = self.load(name)
        known = {f.name: f.default for f in dataclasses.fields(cls) if f.name != "of"}
        return known | dict(self[name].preset)

    def parse(self, spec: str) -> T:
        """Make an object from `name:key=value,... + wrapper:key=value,...`.

        Raises:
            ValueError: for an unknown name or key, or a value of the wrong type or range.
        """
        made: T | None = None
        for part in _PLUS.split(spec):
            made = self._parse_one(part.strip(), spec, made)
        assert made is not None
        return made

    def spec(self, made: T, *, full: bool = False) -> str:
        """The shortest spec that `parse` turns into an equal object, or the one with every key."""
        specs = []
        for name in self:
            # what is not imported has not made anything
            if self[name].target.partition(":")[0] not in sys.modules:
                continue
            if self.load(name) is not type(made):
                continue
            defaults = self.fields(name)
            values = {key: getattr(made, key) for key in defaults}
            changed = [key for key in defaults if values[key] != defaults[key]]
            shown = ",".join(f"{key}={values[key]}" for key in (defaults if full else changed))
            specs.append((len(changed), f"{name}:{shown}" if shown else name))
        if not specs:
            raise ValueError(f"{type(made).__name__} is not a registered {self.kind}")
        own, inside = min(specs)[1], getattr(made, "of", None)
        return own if inside is None else f"{self.spec(inside, full=full)} + {own}"

    def _parse_one(self, part: str, spec: str, inside: T | None) -> T:
        """One part of a spec; `inside` is what the parts before it have made."""
        name, _, settings = part.partition(":")
        name = name.strip()
        wraps = self[name].wraps
        if wraps != (inside is not None):
            rule = "changes another one" if wraps else "stands alone"
            example = f"`NAME + {name}`" if wraps else f"`{name}` must come first"
            raise ValueError(f"the {self.kind} `{name}` {rule}: {example} (in `{spec}`)")
        cls: Any = self.load(name)
        types = typing.get_type_hints(cls)
        known = self.fields(name)
        values = dict(self[name].preset) | ({"of": inside} if wraps else {})
        for setting in filter(None, (part.strip() for part in settings.split(","))):
            key, equals, text = (part.strip() for part in setting.partition("="))
            if key not in known:
                raise ValueError(f"{self.kind} `{name}` has no key `{key}`{nearest(key, known)}")
            if not equals or not text:
                raise ValueError(f"`{setting}` in `{spec}` must have the form key=value")
            values[key] = _convert(key, text, types[key])
        made: T = cls(**values)
        return made


_NAME = re.compile(r"[a-z][a-z0-9-]*")
_PLUS = re.compile(r"\+(?=\s*(?:[a-z]|$))")  # not that of a number such as 1e+5


def _convert(key: str, text: str, kind: Any) -> Any:
    choices = typing.get_args(kind)
    if choices:
        if text not in choices:
            raise ValueError(f"`{key}` ({text}) must be one of: {', '.join(map(str, choices))}")
        return text
    try:
        return kind(text)
    except ValueError:
        article = "a whole number" if kind is int else "a number"
        raise ValueError(f"`{key}` ({text}) must be {article}") from None


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that it is like, and all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"{hint} (known: {', '.join(known)})"


def check_keys(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that a `what` does not have.

    Raises:
        ValueError: naming the key, and the one that it is like.
    """
    for key in given:
        if key not in known:
            raise ValueError(f"a {what} has no key `{key}`{nearest(str(key), known)}")
