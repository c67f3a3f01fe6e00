"""Failures that are nobody's usage mistake: the work could not be done, and the message says why.

The caller's mistakes raise `ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class TetherCacheError(RuntimeError):
    """Base of this project's own failures."""


class MissingModelError(TetherCacheError):
    """A model, or a file that it needs, is not there."""


class DamagedModelError(TetherCacheError):
    """A model's files are there but cannot be read."""


class UnsafeModelError(TetherCacheError):
    """A file would run code if it were loaded the usual way; it was not loaded."""


class WrongModelError(TetherCacheError):
    """A file holds weights, but not those of a model that can be used here."""


class NotEnoughMemoryError(TetherCacheError):
    """A generation would not fit into the memory that is free; nothing was loaded."""


class MissingToolError(TetherCacheError):
    """A tool outside of Python that an option asks for is not installed."""


class NotFiniteError(TetherCacheError):
    """A model made numbers that are none.

    Args:
        model: which one.
        where: in which of its results.
        dtype: in which it computes.
    """

    def __init__(self, model: str, where: str, dtype: object) -> None:
        message = f"the {model} made NaN or infinity in {where} (counted from 1)"
        if str(dtype) == "torch.float16":
            message += "; float16 ends at 65504, so try bfloat16 or float32"
        super().__init__(message)

    @classmethod
    def check(cls, model: str, what: str, made: Tensor, axis: int) -> None:
        """Raise unless all that a model has made is finite; `what` lies along an axis."""
        finite = made.isfinite().movedim(axis, 0).flatten(1).all(dim=1)
        for number, good in enumerate(finite.tolist(), 1):
            if not good:
                raise cls(model, f"{what} {number}", made.dtype)


class SessionError(RuntimeError):
    """A model was called where its session does not expect it, or after a call has failed."""
