"""Files that others made: the boundary at which their parsers' exceptions become this project's."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tethercache.errors import DamagedModelError, MissingModelError, TetherCacheError
from tethercache.files import read_object
from tethercache.text import printable, reason

MOST_JSON = 1 << 25
"""Bytes of the largest configuration or index that is read."""

_REASON, _NAME = 300, 120


@contextmanager
def reading(what: object, verdict: str = "") -> Iterator[None]:
    """Call parsers of torch, safetensors, tokenizers, diffusers and transformers inside.

    At a damaged or foreign file these raise whatever their insides do: `AssertionError`,
    `ImportError`, validation errors with bases of their own, a bare `Exception` (tokenizers), even
    a panic of Rust code, which is no `Exception`. A list of them would be out of date with the next
    release. So here, and nowhere else, any exception means that the file cannot be read. Errors of
    this project pass unchanged, as does what ends a program.

    Args:
        what: is read, for the message.
        verdict: what it means that it cannot be, before the parser's own words.

    Raises:
        DamagedModelError: "cannot load `what`", and the reason in one line.
    """
    try:
        yield
    except (TetherCacheError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        told = f"{verdict} ({_reason(error)})" if verdict else _reason(error)
        raise DamagedModelError(f"cannot load {what}: {told}") from error


def _reason(error: BaseException) -> str:
    """One line of an exception."""
    told = printable(reason(error))
    if "weights_only" in told:  # torch's advice to load the file without protection
        return type(error).__name__
    return told if len(told) <= _REASON else f"{told[:_REASON]}..."


def regular_file(path: Path) -> int:
    """The size of a file, which must be one: to open a pipe or a device might never end.

    Raises:
        MissingModelError: if there is nothing.
        DamagedModelError: if it is no ordinary file, or the system refuses it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MissingModelError(f"no file {path}") from None
    except (OSError, ValueError) as error:  # too long, not allowed, with a zero byte
        raise DamagedModelError(f"cannot read {path}: {reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedModelError(f"cannot read {path}: it is not a file")
    return status.st_size


def read_json(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        MissingModelError: if there is none.
        DamagedModelError: if it is not an object of JSON, or too large to be one.
    """
    regular_file(path)
    try:
        return read_object(path, MOST_JSON)
    except (OSError, ValueError) as error:
        raise DamagedModelError(f"cannot read {path}: {reason(error)}") from error


def weight_map(path: Path) -> dict[str, str]:
    """Which file of a folder has which tensor, by an index of shards.

    Raises:
        TetherCacheError: as `read_json`.
    """
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict):
        raise DamagedModelError(f"cannot read {path}: it has no `weight_map`")
    # a name from a file is not a path to follow
    return {name: Path(str(file)).name for name, file in listed.items()}


def some(what: str, names: Sequence[str]) -> str:
    """How many names there are and the first of them, or nothing."""
    return f"{len(names)} {what} ({first(names)})" if names else ""


def first(names: Sequence[str]) -> str:
    """The first of several names out of a file, which may hold anything, fit for a message."""
    shown = [printable(" ".join(name.split())) for name in names[:3]]
    cut = [name if len(name) <= _NAME else f"{name[:_NAME]}..." for name in shown]
    return ", ".join([*cut, "..."] if len(names) > 3 else cut)
