"""Frames that stand somewhere in time: the chunk in progress, and keys as attention reads them.

Axes: B samples, F latent frames, T tokens a frame, H heads, D channels a head.

A key is rotated by the place in time that a policy gives to its slot. Rotated keys are kept, and a
key is rotated again only when it was rewritten or its place may have changed: the verbs of a bank
note the slots in question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tethercache.cache.rope import Rope, Rotation
from tethercache.cache.slots import Slots, union
from tethercache.cache.stats import FrameStats
from tethercache.cache.store import LIVE, OFFSET, PINNED, Store


class Placed(Store):
    """The readable slots of a bank, and where in time each of them stands.

    Args:
        budget: readable slots.
        reserve: further slots.
        keep_rotated: keep readable keys a second time, as attention reads them.

    Attributes:
        rotated: keys as attention reads them, `[B, budget, T, H, D]`, if they are kept.
        current: slots of the chunk in progress.
        readable: number of readable slots in use, a prefix of all slots.
        jumping: where the next chunk shall begin, at the least; 0: next to the others.
        jumped: how much further away the current chunk stands than it would without a jump.
    """

    rotated: Tensor
    current: Slots

    def __init__(self, budget: int, reserve: int, keep_rotated: bool) -> None:
        super().__init__(budget + reserve)
        self.budget = budget
        self.reserve = reserve
        self.keep_rotated = keep_rotated
        self.readable = 0
        self.jumping = self.jumped = 0
        self.any_pinned = self.any_forgotten = False
        self._position: Tensor | None = None
        self._rotation: Rotation | None = None
        self._age: Tensor | None = None
        self._index: Tensor | None = None
        self._order: str | None = None
        self._rewritten = self._reordered = range(0)

    @property
    def marked(self) -> bool:
        """Whether any frame has a mark beside its index."""
        return bool(self.jumped) or self.any_pinned or self.any_forgotten

    def allocate(self, key: Tensor) -> None:
        """Make room for the first frames, if there is none yet; see `Store.allocate`."""
        if self.allocated:
            return
        super().allocate(key)
        if self.keep_rotated:
            self.rotated = torch.zeros_like(self.key[:, : self.budget])

    def age(self) -> Tensor:
        """Place in time of each readable slot among all of them, int64 `[B, readable]`.

        The oldest frame stands at 0. Frames behind a jump stand further away. The same tensor until
        a frame comes, moves or goes.
        """
        if self._age is None:
            age = self.frame_index[:, : self.readable].argsort(dim=1).argsort(dim=1)
            self._age = self._with_jumps(age)
        return self._age

    def index(self) -> Tensor:
        """Global index of the frame in each readable slot, int64 `[B, readable]`, with its jump."""
        if self._index is None:
            self._index = self._with_jumps(self.frame_index[:, : self.readable].clone())
        return self._index

    def begin(self, slots: Slots, index: Tensor, *, again: bool = False) -> None:
        """Give `slots` to frames of the video, which become the current chunk.

        What the slots held is forgotten; a policy that still wants it has hidden it before.

        Args:
            slots: where they go.
            index: which frames of the video they are, `[B or 1, F]`, later ones than those here.
            again: whether they were here before, and are read again.
        """
        self.frame_index[self.rows, slots.index] = index
        self._land()
        if not again:
            others = self.readable - len(slots)
            self.jumped, self.jumping = max(0, self.jumping - others) if self.jumping else 0, 0
        if self.marked:
            for row, value in ((OFFSET, self.jumped), (PINNED, 0), (LIVE, 1)):
                self.marks[row, self.rows, slots.index] = value
        self.order_tokens(slots.index)
        self.current = slots
        # where the span holds nothing but the chunk, no other frame's place in time changes
        others = len(slots.span) > len(slots)
        self._touch(range(0), slots.span if others else range(0))

    def write(self, key: Tensor, value: Tensor) -> None:
        """Put unrotated `key` and `value` `[B, F, T, H, D]` into the slots of the chunk."""
        self.key[self.rows, self.current.index] = key
        self.write_values(value)

    def write_values(self, value: Tensor) -> None:
        """Put `value` `[B, F, T, H, D]` into the slots of the chunk; the unrotated keys stay."""
        self.value[self.rows, self.current.index] = value

    def measure(self) -> None:
        """Take the statistics of the chunk's frames, which are final from now on."""
        for (some,) in self.in_groups(self.current.index):
            self.note(some, FrameStats.of(self.frames[:, self.rows, some]))

    def place(self, position: Tensor, rope: Rope) -> bool:
        """Let readable slots stand at `position` `[B, readable]`; rotate the keys that moved.

        Which ones moved is known to the host where the position is the bank's own `age` or `index`;
        else all of them are rotated.

        Returns:
            Whether the keys of the current chunk were among them.
        """
        moved, order = range(self.readable), None
        if position is self._age:
            order = "age"
        elif position is self._index:
            order = "index"
        if order is not None and order == self._order:
            reordered = self._reordered if order == "age" else range(0)
            moved = union(self._rewritten, reordered)
        self._order = order
        moved = range(moved.start, min(moved.stop, self.readable))  # hidden frames have no place
        self._rewritten = self._reordered = range(0)
        # a new chunk makes a new tensor of its order, so the chunk stands where it stood
        if order is None or position is not self._position or self._rotation is None:
            self._rotation = rope.at(position.gather(1, self.current.index))
        self._position = position
        if self.keep_rotated:
            self.rotate_into(self.rotated, moved, rope)
        return bool(moved) and union(moved, self.current.span) == moved

    @property
    def position(self) -> Tensor:
        """Where each readable slot stands, int64 `[B, readable]`."""
        if self._position is None:
            raise RuntimeError("no frame has been placed yet")
        return self._position

    def turn(self, frames: Tensor) -> Tensor:
        """Rotate the chunk's queries or keys `[B, F, T, H, D]` to where its frames stand."""
        if self._rotation is None:
            raise RuntimeError("no frame has been placed yet")
        return self._rotation(frames)

    def keys(self, rope: Rope) -> Tensor:
        """All readable keys, rotated to where they stand, `[B, readable, T, H, D]`."""
        if self.keep_rotated:
            return self.rotated[:, : self.readable]
        # a third less memory for a rotation in every pass
        keys = torch.empty_like(self.key[:, : self.readable])
        self.rotate_into(keys, range(self.readable), rope)
        return keys

    def rotate_into(self, target: Tensor, slots: range, rope: Rope) -> None:
        """Write the keys of `slots`, rotated to where they stand, into those slots of `target`."""
        for start in range(slots.start, slots.stop, self.group):
            stop = min(start + self.group, slots.stop)
            keys = target[:, start:stop]
            keys.copy_(self.key[:, start:stop])
            cell = None if self.cell is None else self.cell[:, start:stop]
            rope.at(self.position[:, start:stop], cell).turn_(keys)

    def _touch(self, rewritten: range, reordered: range) -> None:
        """Note which slots hold other keys now, and in which the order of time has changed."""
        self._rewritten = union(self._rewritten, rewritten)
        self._reordered = union(self._reordered, reordered)
        self._forget_order()

    def _land(self) -> None:
        """Let the chunk that has jumped stand with the others."""
        if self.jumped:
            self.jumped = 0
            self.marks[OFFSET] = 0
            self._touch(range(self.readable), range(self.readable))

    def _forget_order(self) -> None:
        self._age = self._index = None

    def _with_jumps(self, position: Tensor) -> Tensor:
        return position + self.marks[OFFSET, :, : self.readable] if self.jumped else position
