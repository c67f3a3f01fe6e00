"""What a cache does, chunk by chunk, as JSON: the data of traces and of live views of the memory.

A `Tracer` observes the banks of a session. It changes nothing, and while a chunk is made it waits
for nothing: it keeps small copies on the device, and `take` reads them when the chunk is there.

One chunk, as `take` returns it; frames are latent frames of the video, in the order of time:

    {"chunk": 12, "start": 36, "stop": 39,     which chunk, and its frames
     "sink": 3, "recent": 4,                   S and R of the policy, from which roles follow
     "changes": [...],                         what came before it: pins, prompt switches, ...
     "layers": [LAYER, ...]}                   first block first

and one layer of it:

    seen        frames that its passes could read while it was made, its own among them
    scores      of each of these the score that kept it last; null where no policy told one
    hidden      frames that were stored then, but seen by no pass
    admitted    frames that came into memory: recalled, or chosen from what was stored
    dropped     frames that were here, or are its own, and are gone
    kept        frames that can be read now that it is committed
    stored      frames that are hidden now
    marks       of seen and of kept frames: "pinned"; "forgotten": masked; "aligned": changed when
                they were recalled; "merged": hold what other frames showed; "packed": hold the best
                tokens of several frames
    decisions   {"frames", "keep", "score", ...}: candidates, who was to stay, and all that the
                policy told about it, a number a candidate
    notes       what else the policy told: {"event", ...}
    reads       {"passes", "frames", "bias"}: passes (the number of a denoising step, "context" or
                "context") that read the same; frames null: all that could be read, which is `seen`
                in a denoising step and `kept` in the context pass; bias null: none. A pass that
                reads twice and fuses is there twice. In the last layer a context pass may end with
                the commit, and then reads nothing.

What was here before a chunk, and its own frames, are afterwards kept, stored or dropped; nothing
else is. Numbers are rounded to six digits; null stands for what is not finite,
or larger than any score that is one: such a frame is sure to stay or to go.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tethercache.cache import Bank, Fused, Pass, PassKind, Slots, View
from tethercache.cache.store import INDEX, LIVE, PINNED
from tethercache.state import State
from tethercache.trace.summary import number

if TYPE_CHECKING:
    from tethercache.session import Session

_VERBS = {"recalled": "aligned", "blended": "merged", "packed": "packed"}
"""What a verb of the bank makes of frames."""


class Tracer:
    """Observes the banks of a session; see the module docstring.

    Args:
        sample: which sample of a batch is traced.
    """

    def __init__(self, sample: int = 0) -> None:
        self.sample = sample
        self._layers: list[_Layer] = []
        self._sizes = {"sink": 0, "recent": 0}

    def watch(self, session: Session) -> None:
        """Observe the session's main stream from now on; what its banks hold is known then.

        To be called again where the session has loaded a state.
        """
        banks, policy = session.caches(), session.policy
        self._sizes = {"sink": policy.sink_size, "recent": policy.recent_size}
        known = self._layers if len(self._layers) == len(banks) else [_Layer() for _ in banks]
        self._layers = known
        for bank, layer in zip(banks, known, strict=True):
            bank.observer = self
            layer.begin(bank, self.sample)

    def __call__(self, event: str, bank: Bank, facts: Mapping[str, Any]) -> None:
        """Be told what has happened in a bank."""
        self._layers[bank.layer].told.append((event, _facts(event, bank, facts, self.sample)))

    def take(self, chunk: int, start: int, stop: int) -> dict[str, Any]:
        """What happened since the last call, in which this chunk was made.

        Args:
            chunk: its number.
            start: its first latent frame.
            stop: the latent frame behind it.
        """
        layers = [layer.take(range(start, stop)) for layer in self._layers]
        changes = layers[0].pop("changes") if layers else []
        for layer in layers[1:]:
            del layer["changes"]
        place = {"chunk": chunk, "start": start, "stop": stop}
        return {**place, **self._sizes, "changes": changes, "layers": layers}

    def state_dict(self) -> State:
        """What cannot be read from the banks, between two chunks; any JSON."""
        return {"layers": [layer.state_dict() for layer in self._layers]}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over what `state_dict` returned, before `watch`; None: nothing has happened yet."""
        self._layers = [_Layer.of(saved) for saved in state["layers"]] if state else []


class _Layer:
    """What is known of one bank: between two chunks, and what was told in the one in the making."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.marked: dict[str, set[int]] = {mark: set() for mark in _VERBS.values()}
        self.scores: dict[int, float | None] = {}
        self.readable: set[int] = set()
        self.held: set[int] = set()

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> _Layer:
        layer = cls()
        layer.marked |= {mark: set(frames) for mark, frames in saved["marked"].items()}
        layer.scores = dict(saved["scores"])
        return layer

    def state_dict(self) -> State:
        marked = {mark: sorted(frames) for mark, frames in self.marked.items()}
        return {"marked": marked, "scores": [list(pair) for pair in sorted(self.scores.items())]}

    def begin(self, bank: Bank, sample: int) -> None:
        self.told.clear()
        self.readable, self.held = set(), set()
        if bank.allocated:
            self._now_holds(*_contents(_holding(bank, sample)))

    def _now_holds(self, readable: list[int], hidden: list[int]) -> None:
        self.readable, self.held = {*readable}, {*readable, *hidden}

    def take(self, own: range) -> dict[str, Any]:
        """The layer's part of a chunk whose frames are `own`."""
        before, readable = self.held, self.readable
        made = _Made()
        for event, facts in self.told:
            made.add(event, facts, self)
        self.told.clear()
        kept, stored = made.after
        self._now_holds(kept, stored)
        here = self.held
        shown = sorted({*made.seen, *kept})
        marks = {mark: made.marks.get(mark, set()) | some for mark, some in self.marked.items()}
        marks = {**made.marks, **marks}
        for some in self.marked.values():
            some &= here
        self.scores = {frame: score for frame, score in self.scores.items() if frame in here}
        new = {frame for frame in (*made.seen, *kept) if frame not in readable} - {*own}
        return {
            "seen": made.seen,
            "scores": made.scores,
            "hidden": made.hidden,
            "admitted": sorted({*made.admitted, *new} & here),
            "dropped": sorted((before | {*own}) - here),
            "kept": kept,
            "stored": stored,
            "marks": {
                mark: [frame for frame in shown if frame in frames]
                for mark, frames in marks.items()
                if not frames.isdisjoint(shown)
            },
            "decisions": made.decisions,
            "notes": made.notes,
            "reads": made.reads(),
            "changes": made.changes,
        }

    def fresh(self, frames: Sequence[int]) -> None:
        """These frames are new, or read again."""
        for some in self.marked.values():
            some -= {*frames}
        for frame in frames:
            self.scores.pop(frame, None)


class _Made:
    """What a layer was told of a chunk, event by event."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.scores: list[float | None] = []
        self.hidden: list[int] = []
        self.after: tuple[list[int], list[int]] = ([], [])
        self.marks: dict[str, set[int]] = {}
        self.admitted: list[int] = []
        self.decisions: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self._reads: list[dict[str, Any]] = []

    def add(self, event: str, facts: dict[str, Any], layer: _Layer) -> None:
        """Take one event in; `layer` keeps what outlasts the chunk."""
        match event:
            case "open":
                self._open(facts, layer)
            case "commit":
                self.after = _contents(facts["holding"])
                self._mark(facts["holding"])
            case "read":
                views = facts["views"]
                self._reads += [v for v in views if v["pass"].kind is not PassKind.REPLAY]
            case "recall":
                decision = _plain(facts)
                frames = decision.pop("index")
                self.decisions.append({"frames": frames, **decision})
                layer.scores |= zip(frames, decision.get("score", []), strict=False)
            case "recalled":
                came = [f for f, keep in _pairs(facts["hidden"], facts["kept"]) if keep]
                self.admitted += came
                if facts["edited"]:
                    layer.marked["aligned"] |= {*came}
            case "blended":
                changed = (f for f, stays in _pairs(facts["target"], facts["weight"]) if stays < 1)
                layer.marked["merged"] |= {*changed}
            case "packed":
                layer.marked["packed"] |= {*facts["target"].tolist()}
            case "event":
                self.changes.append(facts["change"])
            case _:
                self.notes.append({"event": event, **_plain(facts)})

    def _open(self, facts: dict[str, Any], layer: _Layer) -> None:
        current = facts["current"].tolist()
        layer.fresh(current)
        if facts["pass_"].kind is PassKind.REPLAY:
            self.changes.append({"change": "replay", "frames": sorted(current)})
            return
        self.seen, self.hidden = _contents(facts["holding"])
        self._mark(facts["holding"])
        self.scores = [layer.scores.get(frame) for frame in self.seen]

    def _mark(self, holding: Mapping[str, Any]) -> None:
        for mark, frames in _marks(holding).items():
            self.marks.setdefault(mark, set()).update(frames)

    def reads(self) -> list[dict[str, Any]]:
        """Passes that read the same, together."""
        found: list[dict[str, Any]] = []
        for read in self._reads:
            name, frames, bias = _reading(read)
            if bias is None and frames == (self.seen if name != "context" else self.after[0]):
                frames = None
            same = [r for r in found if (r["frames"], r["bias"]) == (frames, bias)]
            if same:
                same[0]["passes"] += [] if name in same[0]["passes"] else [name]
            else:
                found.append({"passes": [name], "frames": frames, "bias": bias})
        return found


# On the device, while the chunk is made -----------------------------------------------------


def _facts(event: str, bank: Bank, facts: Mapping[str, Any], sample: int) -> dict[str, Any]:
    """What has to be kept of an event, in small copies."""
    if event in ("open", "commit"):
        current = bank.frame_index[sample, bank.current.index[sample]]
        return {**facts, "holding": _holding(bank, sample), "current": current}
    if event == "read":
        pass_, seen = facts["pass_"], facts["seen"]
        views = seen.views if isinstance(seen, Fused) else (seen,)
        return {"views": [_view(bank, view, pass_, sample) for view in views]}
    if event == "event":
        change = facts["change"]
        name = type(change).__name__.lower()
        return {"change": {"change": name, **dataclasses.asdict(change)}}
    kept = {name: _copy(bank, value, sample) for name, value in facts.items()}
    if event == "recalled":
        kept["kept"] = kept.pop("keep")[len(facts["members"]) :]
    return kept


def _holding(bank: Bank, sample: int) -> dict[str, Any]:
    slots = [*range(bank.readable), *range(bank.budget, bank.budget + bank.hidden)]
    return {"marks": bank.marks[:, sample, slots], "readable": bank.readable}


def _copy(bank: Bank, value: Any, sample: int) -> Any:
    """One sample's part of a fact: slots become the frames in them."""
    if isinstance(value, Slots):
        return bank.frame_index[sample, value.index[sample]]
    if isinstance(value, Tensor):
        of_samples = value.dim() and len(value) == len(bank.marks[INDEX])
        return (value[sample] if of_samples else value).detach().clone()
    return value


def _view(bank: Bank, view: View, pass_: Pass, sample: int) -> dict[str, Any]:
    """What a pass sees of the bank: `frames` None for all."""
    index, bias = bank.frame_index[sample, : bank.readable], _bias(bank, view, sample)
    read: dict[str, Any] = {"pass": pass_, "frames": None, "bias": None}
    if view.slots is None and bias is None:
        return read
    some = slice(None) if view.slots is None else view.slots.index[sample]
    return {**read, "frames": index[some].clone(), "bias": None if bias is None else bias[some]}


def _bias(bank: Bank, view: View, sample: int) -> Tensor | None:
    """A number a readable frame: the log of what heads and tokens are weighed with, on average."""
    forgotten, bias = bank.forgotten(), None
    if view.bias is not None:
        whole = view.bias[(None,) * (4 - view.bias.dim())]
        weight = whole[sample if len(whole) > 1 else 0].float().exp().mean(dim=(0, 2))
        bias = weight.log().expand(bank.readable)
    if forgotten is not None:
        bias = torch.zeros(bank.readable, device=forgotten.device) if bias is None else bias
        bias = bias.masked_fill(forgotten[sample], -torch.inf)
    return bias


# On the host, when the chunk is there -------------------------------------------------------


def _contents(holding: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Readable and hidden frames, each in the order of time."""
    index, readable = holding["marks"][INDEX].tolist(), holding["readable"]
    return sorted(index[:readable]), sorted(index[readable:])


def _marks(holding: Mapping[str, Any]) -> dict[str, list[int]]:
    index, pinned, live = (holding["marks"][row].tolist() for row in (INDEX, PINNED, LIVE))
    return {
        "pinned": [frame for frame, mark in zip(index, pinned, strict=True) if mark],
        "forgotten": [frame for frame, mark in zip(index, live, strict=True) if not mark],
    }


def _reading(read: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Name of a pass, the frames that it reads, and their bias."""
    pass_: Pass = read["pass"]
    name = pass_.step if pass_.kind is PassKind.DENOISING else pass_.kind.value
    if read["frames"] is None:
        return name, None, None
    frames = read["frames"].tolist()
    given = [0.0] * len(frames) if read["bias"] is None else read["bias"].tolist()
    read_with = sorted((f, b) for f, b in zip(frames, given, strict=True) if b > -math.inf)
    bias = [number(b) for _, b in read_with] if any(b for _, b in read_with) else None
    return name, [frame for frame, _ in read_with], bias


def _pairs(frames: Tensor, values: Tensor) -> zip[tuple[int, Any]]:
    return zip(frames.tolist(), values.tolist(), strict=True)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON has them."""
    return {name: _as_json(value) for name, value in facts.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, bool | int | str | None) else repr(value)
