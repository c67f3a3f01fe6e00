"""Tensors that files hold in another form, made when they are asked for, piece by piece.

What is stored stays on disk, as other tensors do, and what is made of it is made once, in the
number format of the model. All arithmetic is that of float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

_PIECE = 1 << 19
"""Numbers that are made at a time."""


class Packed(ABC):
    """A matrix, or a tensor that is stored as one, of which any rows can be made.

    Args:
        shape: of the tensor.
        rows: how many of them it has as a matrix.
    """

    def __init__(self, shape: Iterable[int], rows: int) -> None:
        self.shape = torch.Size(shape)
        self.rows = rows

    @property
    @abstractmethod
    def form(self) -> str:
        """How it is stored, for people."""

    @abstractmethod
    def piece(self, start: int, stop: int) -> Tensor:
        """Some of its rows in float32."""

    def to(self, dtype: torch.dtype) -> Tensor:
        """The tensor, contiguous, in a number format."""
        made = torch.empty(self.shape, dtype=dtype)
        matrix = made.view(self.rows, -1)
        step = max(1, _PIECE // matrix.shape[1])
        for start in range(0, self.rows, step):
            stop = min(start + step, self.rows)
            matrix[start:stop] = self.piece(start, stop)
        return made


Stored: TypeAlias = Tensor | Packed
"""A tensor as a checkpoint has it."""


def form_of(tensor: Stored) -> str:
    """How a tensor is stored, for people."""
    if isinstance(tensor, Packed):
        return tensor.form
    return str(tensor.dtype).removeprefix("torch.")


def number_format(tensor: Stored) -> torch.dtype | None:
    """The number format of a tensor, or None if it is not stored in one that models compute in."""
    if isinstance(tensor, Packed):
        return number_format(tensor.base) if isinstance(tensor, Adapted) else None
    return tensor.dtype if tensor.is_floating_point() and tensor.dtype.itemsize > 1 else None


def rows_of(tensor: Stored, start: int, stop: int) -> Tensor:
    """Some rows of a matrix in float32."""
    if isinstance(tensor, Packed):
        return tensor.piece(start, stop)
    return tensor[start:stop].float()


class Scaled(Packed):
    """A matrix of small numbers, each to be multiplied by a scale: W = weight x scale.

    Args:
        weight: `[N, K]`, in 8 bits.
        scale: of all of it, of each row (`[N]` or `[N, 1]`), or of square blocks `[N/b, K/b]`.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__(weight.shape, weight.shape[0])
        self.weight = weight
        scale = scale.float()
        self.scale = scale.reshape(-1, 1) if scale.ndim < 2 else scale

    @property
    def form(self) -> str:
        """See `Packed`."""
        return f"scaled {form_of(self.weight)}"

    def piece(self, start: int, stop: int) -> Tensor:
        """See `Packed`."""
        made = self.weight[start:stop].float()
        lines, columns = self.scale.shape
        scale = self.scale[torch.arange(start, stop) * lines // self.rows]
        if columns > 1:
            scale = scale.repeat_interleave(made.shape[1] // columns, 1)
        return made.mul_(scale)


class Adapted(Packed):
    """A matrix with the update of an adapter: W = base + strength x up down.

    Args:
        base: `[N, K]`.
        down: `[R, K]`.
        up: `[N, R]`.
        strength: alpha / R.
    """

    def __init__(self, base: Stored, down: Tensor, up: Tensor, strength: float) -> None:
        super().__init__(base.shape, base.shape[0])
        self.base, self.down, self.up, self.strength = base, down, up, strength

    @property
    def form(self) -> str:
        """See `Packed`."""
        return f"{form_of(self.base)} with a LoRA"

    def piece(self, start: int, stop: int) -> Tensor:
        """See `Packed`."""
        update = self.up[start:stop].float() @ self.down.float()
        return rows_of(self.base, start, stop) + self.strength * update
