"""What one transformer block remembers: frames in slots.

Axes: B samples, F latent frames, T tokens a frame, H heads, D channels a head.

A latent frame is the unit. The first `budget` slots are readable and attention reads them as one
contiguous buffer; the slots behind them are staging, where a policy keeps frames that it hides for
a while. The order of slots means nothing: `frame_index` says which frame a slot holds, and the
position that a policy gives to a slot says where in time attention sees it. Nothing is rolled or
concatenated: a dropped frame's slot is overwritten.

Every slot argument is a tensor `[B, F]`, so that samples can differ, and every operation has a
fixed shape and never waits for the device. The cache knows no policy, no model and no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tethercache.cache.rope import Rope, Rotation

EMPTY = -1
"""`frame_index` of a slot that holds nothing."""

GROUP = 2**21
"""Numbers that a temporary copy of frames may have: large frames are handled one by one."""


@dataclass(frozen=True)
class FrameStats:
    """Mean and biased variance over the tokens of each frame, float32 `[..., F, H, D]`."""

    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> FrameStats:
        """Measure frames `[..., F, T, H, D]`."""
        # in two passes: as exact as torch.var_mean, which is several times slower on a CPU
        frames = frames.float()
        mean = frames.mean(dim=-3, keepdim=True)
        return cls(mean.squeeze(-3), (frames - mean).square_().mean(dim=-3))

    def at(self, rows: Tensor, slots: Tensor) -> FrameStats:
        """The statistics of the frames in `slots` `[B, F]`, where these are of all slots."""
        return FrameStats(self.mean[:, rows, slots], self.var[:, rows, slots])

    def between(self, start: int, stop: int) -> FrameStats:
        """The statistics of the frames in slots `start..stop-1`, where these are of all slots."""
        return FrameStats(self.mean[..., start:stop, :, :], self.var[..., start:stop, :, :])


@dataclass(frozen=True)
class Admission:
    """A policy's last decision about its memory, kept so that it can be looked at.

    All tensors are `[B, candidates]`; the candidates are the old members in slot order, then the
    frames that left the recent region in time order.
    """

    frame_index: Tensor
    mass: Tensor
    diversity: Tensor
    score: Tensor
    keep: Tensor


class LayerCache:
    """Keys and values of one block for B samples.

    Attributes:
        frames: unrotated keys and, behind them, values: `[2, B, slots, T, H, D]`. In the denoising
            passes the keys of the chunk in progress are those of its first pass, unless
            `keep_rotated` is off.
        rotated: keys as attention reads them, `[B, budget, T, H, D]`, if they are kept.
        frame_index: global index of the latent frame in each slot, int64 `[B, slots]`.
        stats: statistics of each frame, taken when it is committed, `[2, B, slots, H, D]`.
        current: slots of the chunk in progress `[B, chunk]`.
        readable: number of readable slots in use, a prefix of all slots.
        staged: number of staging slots in use.
        layer: index of the block, for policies whose rules differ by layer.
        admission: the last decision of a policy that selects, else None.
    """

    frames: Tensor
    rotated: Tensor
    frame_index: Tensor
    stats: FrameStats
    current: Tensor

    def __init__(
        self, budget: int, staging: int, layer: int = 0, *, keep_rotated: bool = True
    ) -> None:
        self.budget = budget
        self.staging = staging
        self.layer = layer
        self.keep_rotated = keep_rotated
        self.readable = 0
        self.staged = 0
        self.admission: Admission | None = None
        self._rows: Tensor | None = None
        self._rank: Tensor | None = None
        self._turn: tuple[Tensor, Rotation] | None = None

    @property
    def key(self) -> Tensor:
        """Unrotated keys `[B, slots, T, H, D]`."""
        return self.frames[0]

    @property
    def value(self) -> Tensor:
        """Values `[B, slots, T, H, D]`."""
        return self.frames[1]

    @property
    def rows(self) -> Tensor:
        """Sample numbers `[B, 1]`, the first index of every batched slot access."""
        if self._rows is None:
            raise RuntimeError("the cache is empty: no frame has been written yet")
        return self._rows

    def allocate(self, key: Tensor) -> None:
        """Make room for the first frames; `key` `[B, F, T, H, D]` gives sizes, dtype and device."""
        if self._rows is not None:
            return
        batch, _, tokens, heads, channels = key.shape
        slots = self.budget + self.staging
        self.frames = key.new_zeros(2, batch, slots, tokens, heads, channels)
        if self.keep_rotated:
            self.rotated = key.new_zeros(batch, self.budget, tokens, heads, channels)
        self.frame_index = torch.full((batch, slots), EMPTY, device=key.device)
        moment = torch.zeros(2, batch, slots, heads, channels, device=key.device)
        self.stats = FrameStats(moment, moment.clone())
        self._rows = torch.arange(batch, device=key.device)[:, None]
        self._numbers = torch.arange(slots, device=key.device).expand(batch, -1)

    def slots(self, start: int, stop: int) -> Tensor:
        """Slot numbers `start..stop-1` for every sample, `[B, stop - start]`."""
        return self._numbers[:, start:stop]

    def grow(self, frames: int) -> Tensor:
        """Take the next `frames` unused readable slots into use, `[B, frames]`."""
        self.readable += frames
        self._rank = None
        return self.slots(self.readable - frames, self.readable)

    def oldest_first(self, start: int, stop: int) -> Tensor:
        """The slots `start..stop-1` sorted by the age of their frames, `[B, stop - start]`."""
        return start + self.frame_index[:, start:stop].argsort(dim=1)

    def open(self, slots: Tensor) -> None:
        """Give `slots` `[B, F]` to the next F frames of the video, which become the current chunk.

        What the slots held is forgotten; a policy that still wants it has moved it before.
        """
        newest = self.frame_index.amax(dim=1, keepdim=True)
        coming = torch.arange(1, slots.shape[1] + 1, device=slots.device)
        self.frame_index[self.rows, slots] = newest + coming
        self.current = slots
        self._rank = self._turn = None

    def write(self, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put unrotated `key` and `value` `[B, F, T, H, D]` into `slots` `[B, F]`."""
        self.frames[0, self.rows, slots] = key
        self.write_values(slots, value)

    def write_values(self, slots: Tensor, value: Tensor) -> None:
        """Put `value` `[B, F, T, H, D]` into `slots` `[B, F]`; the unrotated keys stay."""
        self.frames[1, self.rows, slots] = value

    def commit(self, slots: Tensor) -> None:
        """Take the statistics of the frames in `slots` `[B, F]`, which are final from now on."""
        for some in self.in_groups(slots):
            self.note(some, FrameStats.of(self.frames[:, self.rows, some]))

    def note(self, slots: Tensor, stats: FrameStats) -> None:
        """Set the statistics of the frames in `slots` `[B, F]`, `stats` `[2, B, F, H, D]`."""
        self.stats.mean[:, self.rows, slots] = stats.mean
        self.stats.var[:, self.rows, slots] = stats.var

    def set_aside(self, slots: Tensor) -> None:
        """Copy the frames in `slots` `[B, F]`, with all that is known of them, to staging."""
        self.staged = slots.shape[1]
        start = self.budget
        for some in self.in_groups(slots):
            stop = start + some.shape[1]
            self.frames[:, :, start:stop] = self.frames[:, self.rows, some]
            start = stop
        waiting, origin = self.stats.between(self.budget, start), self.stats.at(self.rows, slots)
        waiting.mean.copy_(origin.mean)
        waiting.var.copy_(origin.var)
        self.frame_index[:, self.budget : start] = self.frame_index[self.rows, slots]

    def staged_groups(self) -> Iterator[tuple[int, int]]:
        """Ranges of staging slots, so that copies of a group's frames stay small."""
        return self._groups(range(self.budget, self.budget + self.staged))

    def empty_staging(self) -> None:
        """Forget the frames that were set aside."""
        self.frame_index[:, self.budget : self.budget + self.staged] = EMPTY
        self.staged = 0

    def relabel(self, source: Tensor, target: Tensor) -> None:
        """Say that `target` holds the frames of the video that `source` held, both `[B, F]`."""
        self.frame_index[self.rows, target] = self.frame_index[self.rows, source]
        self._rank = None

    def rotate(self, slots: range, position: Tensor, rope: Rope) -> None:
        """Refresh `rotated` for `slots`; `position` `[B, readable]` says where each one stands."""
        self._rotate_into(self.rotated, slots, position, rope)

    def rotate_on_read(self, position: Tensor, rope: Rope) -> Tensor:
        """All readable keys at their `position` `[B, readable]`, `[B, readable, T, H, D]`.

        For caches that do not keep rotated keys: a third less memory for a rotation in every pass.
        """
        keys = torch.empty_like(self.key[:, : self.readable])
        self._rotate_into(keys, range(self.readable), position, rope)
        return keys

    def _rotate_into(self, target: Tensor, slots: range, position: Tensor, rope: Rope) -> None:
        for start, stop in self._groups(slots):
            keys = target[:, start:stop]
            keys.copy_(self.key[:, start:stop])
            rope.at(position[:, start:stop]).turn_(keys)

    def in_groups(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Cut `slots` `[B, F]` along F, so that copies of a group's frames stay small."""
        groups: tuple[Tensor, ...] = slots.split(self._group(), dim=1)
        return groups

    def _groups(self, slots: range) -> Iterator[tuple[int, int]]:
        size = self._group()
        for start in range(slots.start, slots.stop, size):
            yield start, min(start + size, slots.stop)

    def _group(self) -> int:
        return max(1, GROUP // self.frames[0, :, 0].numel())

    def rank(self) -> Tensor:
        """Place in time of each readable slot among all readable ones, int64 `[B, readable]`.

        The same tensor until a frame comes, moves or goes.
        """
        if self._rank is None:
            self._rank = self.frame_index[:, : self.readable].argsort(dim=1).argsort(dim=1)
        return self._rank

    def turn_of_chunk(self, position: Tensor, rope: Rope) -> Rotation:
        """How the current chunk's frames are rotated if slots stand at `position` `[B, readable]`.

        Computed once for all passes in which `position` is the same tensor.
        """
        if self._turn is None or self._turn[0] is not position:
            self._turn = (position, rope.at(position.gather(1, self.current)))
        return self._turn[1]
