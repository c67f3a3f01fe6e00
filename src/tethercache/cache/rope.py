"""Rotary positions in three axes, with the time position chosen on read.

Axes: B samples, F latent frames, T tokens a frame, H heads, D channels a head.

Wan turns pairs of adjacent channels by an angle that grows with the token's time, row and column
(`docs/reference.md`, section 1.7). Row and column never change, so their angles are a table; the
time position belongs to a cache slot and may change when a frame moves, so its angle is computed on
use. Angles are computed in float64 and have no table limit. A pair of channels is one complex
float32 number, and turning it is one multiplication: a single pass over the frame, ten times faster
on a CPU than sines and cosines of halves that are taken apart and put together again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Cosine + i sine of every pair's angle, complex64 `[B, F, T, 1, D/2]`."""

    turn: Tensor

    def __call__(self, frames: Tensor) -> Tensor:
        """Rotate `frames` `[B, F, T, H, D]`; the result has the dtype of the input."""
        return self._turned(frames).to(frames.dtype)

    def turn_(self, frames: Tensor) -> None:
        """Rotate `frames` `[B, F, T, H, D]` where they are."""
        if frames.dtype == torch.float32:
            _pairs(frames).mul_(self.turn)
        else:
            frames.copy_(self._turned(frames))

    def _turned(self, frames: Tensor) -> Tensor:
        return torch.view_as_real(_pairs(frames.float()) * self.turn).flatten(-2)


class Rope:
    """Three-axis rotary embedding of Wan for one token grid.

    Of the D/2 channel pairs the last `D // 6` belong to the column, the `D // 6` before them to the
    row, and the rest, which come first, to time. Pair i of a band with b real channels turns by
    `position * theta ** (-2 i / b)`.

    Args:
        head_dim: channels of one attention head (D), even.
        height: token rows of one latent frame.
        width: token columns of one latent frame.
        theta: base of the frequencies.
        device: where the tables live.

    Attributes:
        grid: token rows and columns.
    """

    def __init__(
        self,
        head_dim: int,
        height: int,
        width: int,
        *,
        theta: float = 10000.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.grid = (height, width)
        space = 2 * (head_dim // 6)
        self._time = _frequencies(head_dim - 2 * space, theta, device)
        rows = torch.arange(height, device=device, dtype=_ANGLE)
        columns = torch.arange(width, device=device, dtype=_ANGLE)
        bands = _frequencies(space, theta, device)
        row_angles = torch.outer(rows, bands)[:, None].expand(height, width, -1)
        column_angles = torch.outer(columns, bands)[None].expand(height, width, -1)
        space_angles = torch.cat((row_angles, column_angles), dim=-1).flatten(0, 1)  # [T, pairs]
        self._space = _turn(space_angles)

    def at(self, position: Tensor, cell: Tensor | None = None) -> Rotation:
        """The rotation of frames that stand at time `position`, an integer tensor `[B, F]`.

        Args:
            position: place in time of each frame.
            cell: place of each token in the grid, row by row, integer `[B, F, T]`; None: in order.
        """
        time = _turn(position.to(_ANGLE)[..., None] * self._time)  # [B, F, time pairs]
        lead = (*position.shape, self._space.shape[0])
        space = self._space if cell is None else self._space[cell]
        turn = (time[:, :, None].expand(*lead, -1), space.expand(*lead, -1))
        return Rotation(torch.cat(turn, dim=-1)[:, :, :, None])


_ANGLE = torch.float64


def _frequencies(channels: int, theta: float, device: torch.device | str) -> Tensor:
    exponents = torch.arange(0, channels, 2, device=device, dtype=_ANGLE) / max(channels, 1)
    return theta**-exponents


def _pairs(frames: Tensor) -> Tensor:
    return torch.view_as_complex(frames.unflatten(-1, (-1, 2)))


def _turn(angles: Tensor) -> Tensor:
    return torch.complex(angles.cos().float(), angles.sin().float())
