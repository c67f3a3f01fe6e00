"""What one transformer block remembers: a bank of latent frames in slots.

Axes: B samples, F latent frames, n slots, T tokens a frame, H heads, D channels a head.

The first `budget` slots are readable and attention reads them as one contiguous buffer; the slots
behind them are the reserve, where a policy keeps frames that no pass sees. The order of slots means
nothing: the bank knows which frame of the video a slot holds, and a policy says where in time
attention sees it. Nothing is rolled or concatenated: a dropped frame's slot is overwritten.

A policy changes the bank through its verbs alone. Each has a fixed shape, never waits for the
device, and takes everything along that is known of a frame: its index, marks, statistics, and
whether its key must be rotated again. So no policy can forget to.

The bank knows no policy, no model and no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tethercache.cache.heads import Heads
from tethercache.cache.placed import Placed
from tethercache.cache.slots import Slots, places
from tethercache.cache.stats import FrameStats
from tethercache.cache.store import EMPTY, INDEX, LIVE, PINNED
from tethercache.state import State, laid_out, layout

Edit = Callable[[Tensor, FrameStats], tuple[Tensor, FrameStats]]
"""Frames `[2, B, F, T, H, D]` and their statistics `[2, B, F, H, D]`, before and after."""

Screen = Callable[[Slots, Slots, Tensor], Tensor]
"""Members, hidden frames and which of them to keep; what to keep instead."""

Observer = Callable[[str, "Bank", Mapping[str, Any]], None]
"""Is told what happened, in which bank, and the facts of it.

The mechanism tells `open` and `commit` (`pass_`), `read` (`pass_`, `seen`), `event` (`change`), and
of the verbs that change what a frame shows `recalled` (`members`, `hidden`, `keep`, `edited`),
`blended` (`target`, `weight`) and `packed` (`target`), before they act. A policy tells what it has
decided: `recall` (`index`, `score`, `keep` of each candidate, `[B, n]`), or names of its own.
"""

_NUMBERS = ("readable", "hidden", "jumping", "jumped", "any_pinned", "any_forgotten")
_LATER = 1 << 40  # than any frame


class Bank(Placed):
    """Keys and values of one block for B samples.

    Args:
        budget: readable slots.
        reserve: further slots, for frames that are hidden.
        layer: number of the block.
        shared: notes that all layers of a stream see; see `shared` below.
        keep_rotated: keep readable keys a second time, as attention reads them.
        heads: which of the attention heads are here; all tensors are of these.

    Attributes:
        frames: unrotated keys and, behind them, values: `[2, B, slots, T, H, D]`. In the denoising
            passes the keys of the chunk in progress are those of its first pass, unless
            `keep_rotated` is off.
        hidden: number of reserve slots in use.
        query: unrotated queries of the chunk `[B, L, H, D]`, while the policy commits it or says
            what a pass sees.
        grid: rows and columns of a frame's tokens.
        text: the prompt's keys in this block `[B, L_text, H, D]`, once a pass has made them.
        notes: tensors that a policy keeps about this layer; `[..., H, D]` those of three axes or
            more.
        shared: tensors that a policy hands from one layer to those behind it.
        observer: is told what happens, for traces.
        screen: is asked before hidden frames are recalled, and may decide otherwise: it takes
            members, hidden and keep as `recall` does, and returns what to keep. For wrappers.
    """

    def __init__(
        self,
        budget: int,
        reserve: int = 0,
        layer: int = 0,
        shared: dict[str, Tensor] | None = None,
        *,
        keep_rotated: bool = True,
        heads: Heads | None = None,
    ) -> None:
        super().__init__(budget, reserve, keep_rotated)
        self.layer = layer
        self.heads = heads or Heads()
        self.hidden = 0
        self.query: Tensor | None = None
        self.grid = (0, 0)
        self.text: Tensor | None = None
        self.notes: dict[str, Tensor] = {}
        self.shared = {} if shared is None else shared
        self.observer: Observer | None = None
        self.screen: Screen | None = None

    # What a policy asks ---------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether all readable slots are in use."""
        return self.readable == self.budget

    def slots(self, start: int, stop: int) -> Slots:
        """The slots `start..stop-1`, the same for every sample."""
        return Slots(self._numbers[:, start:stop], range(start, stop))

    def oldest(
        self, n: int, since: int = 0, *, among: Slots | None = None, spare_pinned: bool = True
    ) -> Slots:
        """The slots of the n oldest readable frames, the oldest first.

        Args:
            n: how many.
            since: leave the slots before this one alone. The frames in them must be older than
                those behind, as a sink's and a memory's are.
            among: only these, be they readable or hidden; None: all readable ones.
            spare_pinned: take pinned frames only where there are no others.
        """
        some = self.slots(since, self.readable) if among is None else among
        age = self.frame_index.gather(1, some.index)
        if spare_pinned and self.any_pinned:
            age = age + self.marks[PINNED].gather(1, some.index) * _LATER
        return Slots(some.index.gather(1, age.argsort(dim=1)[:, :n]), some.span)

    def newest(self, n: int, among: Slots | None = None) -> Slots:
        """The slots of the n newest readable frames, the oldest first.

        Args:
            n: how many; all if there are fewer.
            among: only these; None: all readable ones.
        """
        some = self.slots(0, self.readable) if among is None else among
        order = self.frame_index.gather(1, some.index).argsort(dim=1)
        return Slots(some.index.gather(1, order), some.span)[max(0, len(some) - n) :]

    def prefer(self, score: Tensor, slots: Slots) -> Tensor:
        """Let pinned frames win and forgotten ones lose; `score` `[B, len(slots)]` is of `slots`.

        Scores of policies that choose go through this before they choose.
        """
        if self.any_pinned:
            score = score.masked_fill(self.pinned(slots), torch.inf)
        if self.any_forgotten:
            score = score.masked_fill(~self.live(slots), -torch.inf)
        return score

    def pinned(self, slots: Slots) -> Tensor:
        """Which of the frames in `slots` are pinned, bool `[B, len(slots)]`."""
        return self.marks[PINNED].gather(1, slots.index) == 1

    def live(self, slots: Slots) -> Tensor:
        """Which of the frames in `slots` are not forgotten, bool `[B, len(slots)]`."""
        return self.marks[LIVE].gather(1, slots.index) == 1

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the observer, if there is one, what happened."""
        if self.observer is not None:
            self.observer(event, self, facts)

    # The verbs by which a policy changes the bank --------------------------------------------

    def take(self, n: int) -> Slots:
        """Take the next n unused readable slots into use."""
        self.readable += n
        self._forget_order()
        return self.slots(self.readable - n, self.readable)

    def hide(self, slots: Slots) -> Slots:
        """Copy the frames in `slots`, with all that is known of them, to the reserve.

        Returns:
            Where they are now.

        Raises:
            ValueError: if the reserve has no room for them.
        """
        start = self.budget + self.hidden
        if self.hidden + len(slots) > self.reserve:
            raise ValueError(
                f"the reserve of {self.reserve} frames holds {self.hidden} and has no room for "
                f"{len(slots)} more"
            )
        there = self.slots(start, start + len(slots))
        self.hidden += len(slots)
        self.move(slots.index, there.index)
        return there

    def waiting(self) -> Slots:
        """The slots of all hidden frames."""
        return self.slots(self.budget, self.budget + self.hidden)

    def release(self) -> None:
        """Forget all hidden frames."""
        self.marks[INDEX, :, self.budget : self.budget + self.hidden] = EMPTY
        self.hidden = 0

    def recall(self, members: Slots, hidden: Slots, keep: Tensor, edit: Edit | None = None) -> None:
        """Let hidden frames take the places of members.

        Args:
            members: slots of the memory.
            hidden: slots of hidden frames.
            keep: which of the members, then of the hidden frames, stay in memory: bool
                `[B, members + hidden]`, as many as there are members in each sample.
            edit: changes frames before they come into memory. It is asked about all hidden ones,
                because what stays is known to the device alone.
        """
        if self.screen is not None:
            keep = self.screen(members, hidden, keep)
        edited = edit is not None
        self.tell("recalled", members=members, hidden=hidden, keep=keep, edited=edited)
        target = places(members.index, hidden.index, keep)
        for some, there in self.in_groups(hidden.index, target):
            frames, stats = self.frames[:, self.rows, some], self.stats.at(self.rows, some)
            if edit is not None:
                frames, stats = edit(frames, stats)
            # a frame that was not admitted is edited where it stands, hidden as before
            self.frames[:, self.rows, there] = frames
            self.note(there, stats)
        self.relabel(hidden.index, target)
        self._touch(members.span, members.span)

    def copy(self, source: Slots, target: Slots) -> None:
        """Let `target` hold the frames that `source` holds, with all that is known of them.

        The two must not overlap. A frame of the video may be readable in one slot only.
        """
        self.move(source.index, target.index)
        self._touch(target.span, target.span)

    def merge(self, target: Slots, source: Slots, weight: float) -> None:
        r"""Let frames absorb others, token by token; their index and marks stay.

        .. math:: x_{target} \leftarrow w\,x_{target} + (1 - w)\,x_{source}

        Frames that were forgotten are not absorbed.

        Args:
            target: frames that stay.
            source: as many frames that they absorb.
            weight: w, in [0, 1].
        """
        share = torch.full(source.index.shape, weight, device=source.index.device)
        if self.any_forgotten:
            share = share.masked_fill(~self.live(source), 1)
        for there, some, part in self.in_groups(target.index, source.index, share):
            self.blend(Slots(there, target.span), self.frames[:, self.rows, some], part)

    def blend(self, target: Slots, frames: Tensor, weight: Tensor) -> None:
        r"""Let frames become more like given ones; their index and marks stay.

        .. math:: x_{target} \leftarrow w\,x_{target} + (1 - w)\,x

        Args:
            target: frames that change.
            frames: x, keys and values that broadcast to `[2, B, len(target), T, H, D]`.
            weight: w of each frame, in [0, 1], `[B, len(target)]`.
        """
        self.tell("blended", target=target, weight=weight)
        given = frames.expand(2, *target.index.shape, *self.frames.shape[3:])
        groups = self.in_groups(target.index, weight)
        for (there, share), new in zip(groups, given.split(self.group, dim=2), strict=True):
            old = self.frames[:, self.rows, there]
            blended = torch.lerp(new.float(), old.float(), share[..., None, None, None]).to(
                old.dtype
            )
            self.frames[:, self.rows, there] = blended
            self.note(there, FrameStats.of(blended))
        self._touch(target.span, range(0))

    def pack(self, slots: Slots, score: Tensor, into: Slots) -> None:
        """Put the best tokens of several frames into fewer slots; each keeps its spatial place.

        Args:
            slots: frames to choose from, the oldest first.
            score: of every token, `[B, len(slots) * T]`.
            into: slots that take the chosen tokens in the order of their frames. They may be some
                of `slots`, and keep the index of the frame that they held. They are pinned if any
                of their tokens was, and forgotten if any was.
        """
        self.tell("packed", target=into)
        tokens = self.frames.shape[3]
        chosen = score.topk(len(into) * tokens, dim=1).indices.sort(dim=1).values
        slot, token, cells = slots.index.gather(1, chosen // tokens), chosen % tokens, self.cells()
        packed = self.frames[:, self.rows, slot, token].unflatten(2, (len(into), tokens))
        places = cells[self.rows, slot, token].unflatten(1, (len(into), tokens))
        self.frames[:, self.rows, into.index] = packed
        cells[self.rows, into.index] = places
        self.note(into.index, FrameStats.of(packed))
        if self.marked:
            marks = self.marks[:, self.rows, slot].unflatten(2, (len(into), tokens))
            self.marks[PINNED, self.rows, into.index] = marks[PINNED].amax(dim=2)
            self.marks[LIVE, self.rows, into.index] = marks[LIVE].amin(dim=2)
        self._touch(into.span, range(0))

    def keep(self, slots: Slots) -> None:
        """Let exactly these readable frames stay, in this order; forget all others."""
        kept = self.slots(0, len(slots))
        self.reorder(slots.index, kept.index)
        self.marks[INDEX, :, len(slots) : self.readable] = EMPTY
        self.readable = len(slots)
        self._touch(kept.span, kept.span)

    def jump(self, place: int) -> None:
        """Let the next chunk begin at the temporal position `place`, if that is further away.

        The jump is over where the chunk after it begins: then all stand together again.
        """
        self.jumping = place

    def clear(self) -> None:
        """Forget all frames, and what was noted of them.

        A jump that was asked for stays, and so do the prompt's keys until a pass makes others.
        """
        jumping, text = self.jumping, self.text
        self.load_state_dict({})
        self.jumping, self.text = jumping, text

    def pin(self, start: int, stop: int) -> None:
        """Keep the latent frames `start..stop-1`, as far as they are here, while others leave."""
        self.mark(PINNED, 1, start, stop)
        self.any_pinned = True

    def forget(self, start: int, stop: int) -> None:
        """Let no pass see the latent frames `start..stop-1` again."""
        self.mark(LIVE, 0, start, stop)
        self.any_forgotten = True

    def forgotten(self) -> Tensor | None:
        """Which readable slots no pass shall see, bool `[B, readable]`; None if there are none."""
        return self.marks[LIVE, :, : self.readable] == 0 if self.any_forgotten else None

    def state_dict(self) -> State:
        """All that the bank holds between two chunks; see `tethercache.state`.

        The large tensors are copies and stay on their device. Rotated keys are left out: they are
        made again. `shared` belongs to the stream. The heads are all, wherever they are.
        """
        if not self.allocated:
            return {}
        state: State = {name: getattr(self, name) for name in _NUMBERS}
        state |= self.save(self._used())
        known = {"current": self.current.index, "position": self._position, "text": self.text}
        state |= {
            "current_span": [self.current.span.start, self.current.span.stop],
            "known": {name: layout(x) for name, x in known.items() if x is not None},
            "notes": {name: layout(note) for name, note in self.notes.items()},
        }
        return self.heads.gather_state(state)

    def load_state_dict(
        self, state: Mapping[str, Any], device: torch.device | str | None = None
    ) -> None:
        """Take over what a bank of the same sizes has saved; forget what is here.

        Args:
            state: what `state_dict` returned. Its tensors are copied.
            device: where the bank shall be; None: where the tensors are.

        Raises:
            ValueError: if this bank has no room for what that one held.
        """
        self._check_room(state)
        self._rows = self.cell = self.text = self._position = self._rotation = None
        self.notes = {}
        for name in _NUMBERS:
            setattr(self, name, state.get(name, 0))
        if not state:
            return
        state = self.heads.own_state(state)
        frames = state["frames"]
        self.allocate(frames[0, :, :0].to(device or frames.device))
        self.restore(self._used(), state)
        known = {name: laid_out(x, self.marks.device) for name, x in state["known"].items()}
        self.current = Slots(known["current"], range(*state["current_span"]))
        self._position, self.text = known.get("position"), known.get("text")
        self.notes = {name: laid_out(x, self.marks.device) for name, x in state["notes"].items()}
        self._order = None  # whatever is readable must be rotated
        self._touch(range(self.readable), range(self.readable))

    def _check_room(self, state: Mapping[str, Any]) -> None:
        for name, room in (("readable", self.budget), ("hidden", self.reserve)):
            if state.get(name, 0) > room:
                raise ValueError(
                    f"the state has {state[name]} {name} frames, more than the {room} of this bank"
                )

    def _used(self) -> Tensor:
        """The slots in use."""
        hidden = range(self.budget, self.budget + self.hidden)
        return torch.tensor([*range(self.readable), *hidden], device=self.marks.device)
