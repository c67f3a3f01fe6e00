"""The arrays behind a bank: what is known of the frame in each slot.

Axes: B samples, F latent frames, T tokens a frame, H heads, D channels a head.

A frame has keys and values, a row of marks, statistics and, where tokens were packed, their places
in the grid. What copies a frame copies all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tethercache.cache.stats import FrameStats

EMPTY = -1
"""`frame_index` of a slot that holds nothing."""

GROUP = 2**21
"""Numbers that a temporary copy of frames may have: large frames are handled one by one."""

INDEX, OFFSET, PINNED, LIVE = range(4)
"""Rows of `Store.marks`: frame of the video, jump, pinned or not, seen or forgotten."""


class Store:
    """Frames of B samples in numbered slots.

    Args:
        slots: how many.

    Attributes:
        frames: unrotated keys and, behind them, values: `[2, B, slots, T, H, D]`.
        marks: int64 `[4, B, slots]`; see `INDEX`.
        key: unrotated keys `[B, slots, T, H, D]`, a part of `frames`, as are the values.
        value: values, same shape.
        frame_index: global index of the latent frame in each slot, int64 `[B, slots]`, a part of
            `marks`; `EMPTY` for none.
        stats: statistics of each frame `[2, B, slots, H, D]`; zeros where none were taken.
        cell: place of each token in the grid, int64 `[B, slots, T]`; None: in order.
        group: how many frames may be copied at a time.
    """

    frames: Tensor
    key: Tensor
    value: Tensor
    marks: Tensor
    frame_index: Tensor
    stats: FrameStats
    group: int

    def __init__(self, slots: int) -> None:
        self.cell: Tensor | None = None
        self._slots = slots
        self._rows: Tensor | None = None
        self._numbers: Tensor

    @property
    def rows(self) -> Tensor:
        """Sample numbers `[B, 1]`, the first index of every batched slot access."""
        if self._rows is None:
            raise RuntimeError("the bank is empty: no frame has been written yet")
        return self._rows

    @property
    def allocated(self) -> bool:
        """Whether the arrays are there; a bank gets them with its first frames."""
        return self._rows is not None

    def allocate(self, key: Tensor) -> None:
        """Make room for the first frames; `key` `[B, F, T, H, D]` gives sizes, dtype and device."""
        batch, _, tokens, heads, channels = key.shape
        slots, device = self._slots, key.device
        self.frames = key.new_zeros(2, batch, slots, tokens, heads, channels)
        self.marks = torch.zeros(4, batch, slots, dtype=torch.int64, device=device)
        self.marks[INDEX], self.marks[LIVE] = EMPTY, 1
        # asked for in every pass, so they are made once
        self.key, self.value, self.frame_index = self.frames[0], self.frames[1], self.marks[INDEX]
        self.group = max(1, GROUP // (batch * tokens * heads * channels))
        moment = torch.zeros(2, batch, slots, heads, channels, device=device)
        self.stats = FrameStats(moment, moment.clone())
        self._rows = torch.arange(batch, device=device)[:, None]
        self._numbers = torch.arange(slots, device=device).expand(batch, -1)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy frames from slots `source` to `target`, both `[B, F]`, which do not overlap."""
        for some, there in self.in_groups(source, target):
            self.frames[:, self.rows, there] = self.frames[:, self.rows, some]
        self._move_rest(source, target)

    def reorder(self, source: Tensor, target: Tensor) -> None:
        """As `move`, for slots that overlap: takes memory for all of the frames at once."""
        self.frames[:, self.rows, target] = self.frames[:, self.rows, source]
        self._move_rest(source, target)

    def relabel(self, source: Tensor, target: Tensor) -> None:
        """Give the slots `target` the marks of the slots `source`, both `[B, F]`."""
        self.marks[:, self.rows, target] = self.marks[:, self.rows, source]

    def note(self, index: Tensor, stats: FrameStats) -> None:
        """Set the statistics of the frames in slots `index` `[B, F]`."""
        self.stats.mean[:, self.rows, index] = stats.mean
        self.stats.var[:, self.rows, index] = stats.var

    def cells(self) -> Tensor:
        """The place of each token in the grid `[B, slots, T]`, for writing."""
        if self.cell is None:
            self.cell = self._in_order().expand(*self.frame_index.shape, -1).clone()
        return self.cell

    def order_tokens(self, index: Tensor) -> None:
        """The tokens of new frames in slots `index` `[B, F]` are in order again."""
        if self.cell is not None:
            self.cell[self.rows, index] = self._in_order()

    def mark(self, row: int, value: int, start: int, stop: int) -> None:
        """Set a mark of the latent frames `start..stop-1`, as far as they are here."""
        inside = (self.frame_index >= start) & (self.frame_index < stop)
        self.marks[row].masked_fill_(inside, value)

    def in_groups(self, *indices: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Cut slot numbers `[B, F]` along F, so that copies of a group's frames stay small."""
        size = self.group
        yield from zip(*(index.split(size, dim=1) for index in indices), strict=True)

    def save(self, used: Tensor) -> dict[str, Tensor]:
        """A copy of what the slots `used` hold."""
        arrays = self._arrays() | ({} if self.cell is None else {"cell": self.cell[None]})
        return {name: array.index_select(2, used) for name, array in arrays.items()}

    def restore(self, used: Tensor, saved: Mapping[str, Any]) -> None:
        """Put into the slots `used` what `save` returned."""
        arrays = self._arrays() | ({"cell": self.cells()[None]} if "cell" in saved else {})
        for name, array in arrays.items():
            array.index_copy_(2, used, saved[name].to(array.device))

    def _arrays(self) -> dict[str, Tensor]:
        """All that every slot has, `[n, B, slots, ...]`."""
        moments = {"mean": self.stats.mean, "var": self.stats.var}
        return {"frames": self.frames, "marks": self.marks} | moments

    def _in_order(self) -> Tensor:
        return torch.arange(self.frames.shape[3], device=self.frames.device)

    def _move_rest(self, source: Tensor, target: Tensor) -> None:
        self.note(target, self.stats.at(self.rows, source))
        self.relabel(source, target)
        if self.cell is not None:
            self.cell[self.rows, target] = self.cell[self.rows, source]
