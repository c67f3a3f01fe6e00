"""Rules for what callers pass.

Each function returns the value, a whole number as a plain `int`, or raises `ValueError` that names
the argument, the rule and the value. A bool is not a number here: `seed=True` is a mistake.
"""

from __future__ import annotations

import numbers
import operator
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from torch import Tensor

SEEDS = (-(2**63), 2**64 - 1)
"""The smallest and the largest seed, those of torch's own generators."""


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number in a range: an `int`, or one of numpy or torch."""
    try:
        given = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        given = None
    if given is None or not _between(given, least, most):
        raise _refusal(name, value, f"a whole number{_range(least, most)}")
    return given


def number(name: str, value: Any, least: float | None = None, most: float | None = None) -> Any:
    """A finite real number in a range, as it was given."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # comparisons, because a large int has no float; NaN fails them
    if not real or not float("-inf") < value < float("inf") or not _between(value, least, most):
        raise _refusal(name, value, f"a finite number{_range(least, most)}")
    return value


def positive(name: str, value: Any) -> Any:
    """A finite real number above zero, as it was given."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < float("inf"):
        raise _refusal(name, value, "a positive number")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that merely counts as such."""
    if not isinstance(value, bool):
        raise _refusal(name, value, "True or False")
    return value


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of several words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` ({value}) must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def instance(name: str, value: Any, kind: type | UnionType, what: str) -> Any:
    """An object of a class; `what` says it in words."""
    if not isinstance(value, kind):
        raise _refusal(name, value, what)
    return value


def as_path(name: str, value: Any) -> Path:
    """A path that a system can have: text or path-like, without U+0000 and lone surrogates."""
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    try:
        if isinstance(given, str) and b"\0" not in os.fsencode(given):
            return Path(given)
    except UnicodeEncodeError:
        pass
    raise _refusal(name, given, "a path, without U+0000 and lone surrogates")


def whole_numbers(name: str, values: Any, least: int, most: int) -> tuple[int, ...]:
    """Several whole numbers: a list, a range, an array."""
    given = _items(name, values, "a list of whole numbers")
    return tuple(whole_number(f"{name}[{i}]", value, least, most) for i, value in enumerate(given))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file has a type; its numbers are finite.

    Args:
        value: any; a list is also a tuple, and a whole number a float.
        hint: a type as it stands in a signature.
    """
    of, origin = get_args(hint), get_origin(hint)
    if hint is Any:
        return True
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < 1e300  # NaN is not
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is Literal:
        return value in of
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in of)
    if origin in (list, tuple):
        return isinstance(value, list) and all(fits(item, of[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, of[1]) for item in value.values())
    return isinstance(value, hint)


def texts(name: str, value: Any) -> list[str]:
    """One text or several, none of them empty."""
    rule = "a text or a list of texts"
    given = [value] if isinstance(value, str) else _items(name, value, rule)
    for text in given:
        instance(name, text, str, rule)
    if not given or any(not text.strip() for text in given):
        raise ValueError(f"`{name}` must not be empty")
    return given


def float_tensor(name: str, value: Any, shape: Sequence[int | str]) -> Tensor:
    """A tensor of finite floating-point numbers.

    Args:
        name: the argument's name.
        value: the tensor.
        shape: its sizes; a letter stands for any size from 1 on.
    """
    import torch

    wanted = f"[{', '.join(map(str, shape))}]"
    if not isinstance(value, torch.Tensor):
        raise _refusal(name, value, f"a tensor {wanted}")
    given = tuple(value.shape)
    fits = len(given) == len(shape) and all(
        size == rule if isinstance(rule, int) else size >= 1
        for size, rule in zip(given, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"`{name}` {given} must be {wanted}")
    if not value.is_floating_point():
        raise ValueError(f"`{name}` ({value.dtype}) must be of a floating-point dtype")
    if value.layout is not torch.strided or value.is_meta:
        raise ValueError(f"`{name}` must be a plain tensor that holds its numbers")
    if not (finite := value.isfinite()).all():
        wrong = (~finite).nonzero()
        raise ValueError(
            f"`{name}` must be finite, but holds {len(wrong)} values that are NaN or infinite, "
            f"the first at {wrong[0].tolist()}"
        )
    return value


def _items(name: str, values: Any, rule: str) -> list[Any]:
    """What a list or an array holds; a text is none, and an array may have no axis."""
    try:
        if not isinstance(values, str | bytes):
            return list(values)
    except TypeError:
        pass
    raise _refusal(name, values, rule)


def _between(value: Any, least: Any, most: Any) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _range(least: Any, most: Any) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    return f" of at least {least}" if least is not None else ""


def _refusal(name: str, value: Any, rule: str) -> ValueError:
    return ValueError(f"`{name}` ({' '.join(reprlib.repr(value).split())}) must be {rule}")
