"""The contract between a bank of frames and the policy that decides what it remembers.

A policy is a frozen dataclass: its fields are its configuration, its command-line spec and the
record of a run. It keeps no state and sees no model: everything it may look at or change is a
`Bank`, one a layer. For every chunk of latent frames it is asked, layer by layer:

* `open`, before the chunk's first pass: which slots the new frames take, and what becomes of the
  frames that were there;
* `commit`, in the context pass and before its attention, when the clean chunk is written and
  measured: what becomes of hidden frames, now that `bank.query` holds the chunk's queries;
* `place`, after each of these: where in time each readable frame stands;
* `see`, for every pass: which readable frames it sees, and with which bias.

Between two chunks it is told of events: `on`. What `open`, `commit` and `on` change, they change
through the verbs of the bank; `place` and `see` change nothing.

All of this runs inside the transformer's forward pass: it uses fixed shapes and never waits for the
device (no `.item()`, no `bool(tensor)`). What depends on sizes alone is decided on host integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from tethercache.cache.bank import Bank
from tethercache.cache.slots import Slots


class PassKind(Enum):
    """What a model call is for. It is declared by the caller, never inferred from a timestep."""

    DENOISING = "denoising"
    CONTEXT = "context"
    REPLAY = "replay"


@dataclass(frozen=True)
class Pass:
    """One model call on a chunk, as one layer sees it.

    Attributes:
        kind: denoising pass, context pass that commits the chunk, or a pass in which frames of
            before are read again and committed anew.
        step: index of the denoising step; for the context pass the number of steps before it.
        steps: how many denoising steps the chunk has; None if the caller did not say.
        layer: number of the block.
        layers: how many blocks there are.
    """

    kind: PassKind
    step: int
    steps: int | None = None
    layer: int = 0
    layers: int = 1

    @property
    def last(self) -> bool:
        """Whether this is known to be the chunk's last denoising step."""
        return self.kind is PassKind.DENOISING and self.step + 1 == self.steps

    @property
    def first(self) -> bool:
        """Whether this is the chunk's first pass, so that the chunk needs slots."""
        return self.step == 0

    @property
    def commits(self) -> bool:
        """Whether this pass writes the clean chunk."""
        return self.kind is not PassKind.DENOISING


@dataclass(frozen=True)
class View:
    """What a pass sees.

    Attributes:
        slots: the readable slots that it sees, the chunk's own among them; None for all.
        bias: number added to the attention logits of readable slots; a tensor that broadcasts to
            `[B, H, readable, T]`, so that it may differ by frame, head and token. None for none.
    """

    slots: Slots | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Fused:
    """Several views, each attended to by itself, whose outputs become one.

    Attributes:
        views: what is seen.
        fuse: takes the outputs of all views, `[B, L, H, D]` each, and returns one of that shape.
    """

    views: tuple[View, ...]
    fuse: Callable[..., Tensor]


def each_view(seen: View | Fused, change: Callable[[View], View]) -> View | Fused:
    """The same, with `change(view)` in the place of every view."""
    if isinstance(seen, Fused):
        return replace(seen, views=tuple(map(change, seen.views)))
    return change(seen)


@dataclass(frozen=True)
class Pin:
    """Keep the latent frames `start..stop-1` in memory, within the budget."""

    start: int
    stop: int


@dataclass(frozen=True)
class Forget:
    """Let no pass see the latent frames `start..stop-1` again."""

    start: int
    stop: int


@dataclass(frozen=True)
class Switch:
    """The prompt changes with the next chunk."""


@dataclass(frozen=True)
class Cut:
    """The next chunk begins a new shot.

    Attributes:
        newest: frames that stay beside the sink.
        place: temporal position of the first frame behind the cut, as long as its chunk is made.
    """

    newest: int = 2
    place: int = 45


Event = Pin | Forget | Switch | Cut


@dataclass(frozen=True)
class Policy(ABC):
    """Decides what a causal video transformer remembers. See the module docstring."""

    @property
    @abstractmethod
    def budget(self) -> int:
        """K: the largest number of latent frames that attention reads, the chunk included."""

    @property
    @abstractmethod
    def sink_size(self) -> int:
        """S: the number of first frames that never leave."""

    @property
    def recent_size(self) -> int:
        """R: the number of newest frames that are kept for their age alone, the chunk included."""
        return self.budget - self.sink_size

    @property
    def needs_statistics(self) -> bool:
        """Whether the policy uses `Bank.stats`; else they are not taken."""
        return True

    def reserve(self, chunk: int | None = None) -> int:
        """The number of hidden frames for which the policy needs slots.

        Args:
            chunk: the largest chunk after the first; None: the largest that the policy serves.
        """
        return 0

    @abstractmethod
    def check_chunk(self, committed: int, frames: int) -> None:
        """Raise `ValueError` unless a chunk of `frames` can follow `committed` latent frames.

        Once the budget is full, the answer depends on `frames` alone.
        """

    def check_follows(self, other: Policy, chunk: int | None = None) -> None:
        """Raise `ValueError` unless this policy can go on with what another one has kept.

        Args:
            other: that one.
            chunk: the largest chunk after the first; None: any.
        """
        for name in ("budget", "sink_size", "recent_size"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"a video's policy can only be followed by one of the same sizes: `{name}` is "
                    f"{mine}, not {theirs}"
                )
        if self.reserve(chunk) != other.reserve(chunk):
            raise ValueError("a video's policy can only be followed by one that hides as many")
        if self.needs_statistics and not other.needs_statistics:
            raise ValueError("a policy that needs statistics cannot follow one that takes none")

    def smaller(self, chunk: int) -> Iterator[Policy]:
        """The same policy with ever fewer frames, for where memory is short.

        Args:
            chunk: latent frames in a chunk, by which the budget falls.
        """
        return iter(())

    def filled(self, bank: Bank) -> bool:
        """Whether the budget was reached, so that frames have begun to leave.

        Wrappers that narrow what is seen wait for it. By default the bank is full then; a policy
        that makes room in advance knows more.
        """
        return bank.full

    @abstractmethod
    def open(self, bank: Bank, frames: int) -> Slots:
        """Choose the slots of the next `frames` latent frames and see to what leaves them."""

    def commit(self, bank: Bank) -> None:
        """Decide about hidden frames, now that the clean chunk is written and measured."""
        return

    def on(self, bank: Bank, event: Event) -> None:
        """React to an event between two chunks.

        By default frames are pinned and forgotten as the bank does it, a prompt switch changes
        nothing, and a cut keeps the sink and the newest frames alone.
        """
        match event:
            case Pin(start, stop):
                bank.pin(start, stop)
            case Forget(start, stop):
                bank.forget(start, stop)
            case Cut(newest, place):
                self.keep_newest(bank, newest)
                bank.jump(place)

    def keep_newest(self, bank: Bank, newest: int) -> None:
        """Let the sink and so many of the newest frames stay, and no others."""
        sink = bank.slots(0, min(self.sink_size, bank.readable))
        others = bank.slots(len(sink), bank.readable)
        bank.keep(sink + bank.newest(newest, among=others))
        bank.release()

    def place(self, bank: Bank) -> Tensor:
        """Temporal position of each readable slot, int64 `[B, readable]`; by default its age.

        `bank.age()` and `bank.index()` themselves cost nothing. Any other tensor is right too, but
        has all readable keys rotated each time.
        """
        return bank.age()

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What `pass_` sees; by default all readable frames, without a bias."""
        return View()


@dataclass(frozen=True)
class Wrapper(Policy):
    """Changes some of what another policy does; the rest is left to it.

    Its spec comes behind that of the other policy: `tethercache:alpha=0.2 + commit-read:newest=6`.

    Args:
        of: the policy that it changes.
    """

    of: Policy

    @property
    def budget(self) -> int:
        """That of the policy inside, as everything here."""
        return self.of.budget

    @property
    def sink_size(self) -> int:
        """S, the sink."""
        return self.of.sink_size

    @property
    def recent_size(self) -> int:
        """R, the newest frames."""
        return self.of.recent_size

    @property
    def needs_statistics(self) -> bool:
        """Whether statistics are used."""
        return self.of.needs_statistics

    def reserve(self, chunk: int | None = None) -> int:
        """Slots of hidden frames."""
        return self.of.reserve(chunk)

    def check_chunk(self, committed: int, frames: int) -> None:
        """Whether the chunk can be served."""
        self.of.check_chunk(committed, frames)

    def smaller(self, chunk: int) -> Iterator[Policy]:
        """The same wrapper around smaller policies."""
        for policy in self.of.smaller(chunk):
            yield replace(self, of=policy)

    def filled(self, bank: Bank) -> bool:
        """Whether frames have begun to leave."""
        return self.of.filled(bank)

    def open(self, bank: Bank, frames: int) -> Slots:
        """Slots of a new chunk."""
        return self.of.open(bank, frames)

    def commit(self, bank: Bank) -> None:
        """What becomes of hidden frames."""
        self.of.commit(bank)

    def on(self, bank: Bank, event: Event) -> None:
        """React to an event."""
        self.of.on(bank, event)

    def place(self, bank: Bank) -> Tensor:
        """Positions in time."""
        return self.of.place(bank)

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """What a pass sees."""
        return self.of.see(bank, pass_)
