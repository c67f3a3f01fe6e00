"""Who competes: a policy, or none, in the middle of a video of its own.

All contestants of a case share the weights of one model; each has its own modules around them, so
that each can stay attached while the others work.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tethercache.backbones import attach
from tethercache.bench import bare
from tethercache.bench.bare import attach_bare
from tethercache.bench.cases import Model
from tethercache.bench.meters import Clock, Memory, Span, Timeline
from tethercache.cache import Bank, Policy, Rope, Rotation, attention, call
from tethercache.cache.call import Call
from tethercache.rollout import CounterNoise, Plan, Rollout
from tethercache.video import StreamingDecoder

CACHE, TRANSFORMER, DECODE = "cache", "transformer", "decode"


@dataclass(frozen=True)
class Lap:
    """One chunk.

    Attributes:
        made: what its latents took.
        decoded: what its decode took, where there is one.
    """

    made: Span
    decoded: Span | None


@dataclass(frozen=True)
class MemoryUse:
    """What a contestant alone would need, in bytes.

    Attributes:
        peak: weights, state, and what a steady chunk (and its decode) takes on top at most.
        state: the cache, the prompt's keys and values, what the decoder remembers.
        admission: the most that the cache's work on one chunk in one layer takes for a while, the
            admission of frames to the memory and their alignment included; None without a cache.
    """

    peak: int
    state: int
    admission: int | None


class Contestant:
    """A rollout that is advanced chunk by chunk.

    Args:
        name: how the tables call it.
        policy: what it remembers; None for the bare transformer.
        model: weights, shared with others.
        budget: latent frames that attention reads (K).
        chunks: chunks that will be asked for after `warm_up`.
        attention: backend of diffusers' attention dispatcher.
        compile_blocks: compile the blocks, see `backbones.attach`.
    """

    def __init__(
        self,
        name: str,
        policy: Policy | None,
        model: Model,
        *,
        budget: int,
        chunks: int,
        attention: str | None = None,
        compile_blocks: bool = False,
    ) -> None:
        self.name = name
        self.policy = policy
        self._model = model
        self._attention = attention
        self._compile = compile_blocks
        self._budget = budget
        size = model.settings.chunk_size
        # whole chunks that fill the cache, and one more, whose frames compete for the memory
        self._prefix = size * (-(-budget // size) + 1)
        self._plan = Plan(self._prefix + size * chunks, chunk_size=size, prefix=self._prefix)
        if policy is not None:
            self._plan.check(policy)

    def enter(self, stack: ExitStack) -> None:
        """Attach to the model until `stack` is closed."""
        model = self._model
        shared = (*model.transformer.parameters(), *model.transformer.buffers())
        self._transformer = copy.deepcopy(model.transformer, {id(t): t for t in shared})
        if self.policy is None:
            attached = attach_bare(self._transformer, self._budget, attention=self._attention)
            self._session: Any = stack.enter_context(attached)
        else:
            self._session = stack.enter_context(
                attach(
                    self._transformer,
                    self.policy,
                    chunk_size=model.settings.chunk_size,
                    attention=self._attention,
                    compile_blocks=self._compile,
                )
            )
        random = torch.Generator().manual_seed(0)
        shape = (1, self._transformer.config.in_channels, self._prefix, *model.latent_size)
        self._chunks = Rollout(
            self._transformer,
            self._session,
            self._plan,
            model.steps(),
            CounterNoise(),
            model.prompt_embeds,
            latent_size=model.latent_size,
            first_steps=model.steps(first=True),
            context_noise=model.settings.context_noise,
            prefix=torch.randn(shape, generator=random).to(model.prompt_embeds),
        )
        self._decoder = None if model.vae is None else StreamingDecoder(model.vae)

    def advance(self) -> Tensor:
        """The next chunk, decoded if the model decodes."""
        latents = next(self._chunks)
        return latents if self._decoder is None else self._decoder.decode(latents)

    def warm_up(self, meter: Memory) -> MemoryUse:
        """Fill the cache by context passes on random latents; says what memory that took."""
        weights = sum({t.data_ptr(): t.nbytes for t in self._model.tensors()}.values())
        with meter:
            before = meter.level()
            for _ in range(self._prefix // self._model.settings.chunk_size - 1):
                self.advance()
            with _admissions(meter) as most:
                self.advance()
            highest, level = most.finish(), meter.level()
        return MemoryUse(
            peak=weights + highest - before,
            state=level - before,
            admission=None if self.policy is None else most.extra,
        )

    def lap(self, clock: Clock) -> Lap:
        """Make and decode the next chunk, and time it."""
        start = clock.stamp()
        latents = next(self._chunks)
        made = clock.since(start)
        if self._decoder is None:
            return Lap(made, None)
        start = clock.stamp()
        self._decoder.decode(latents)
        return Lap(made, clock.since(start))

    def profile(self, clock: Clock) -> dict[str, float]:
        """Make and decode the next chunk; the seconds of wall time that its phases took.

        The phases are `TRANSFORMER` (attention itself included), `DECODE`, those of the cache,
        whose names begin with `CACHE`, and `Timeline.REST`: noise, sampler, host, and all else that
        the device waits for.
        """
        timeline = Timeline(clock)
        through = (self._session, "self_attention") if self.policy is None else (Call, "attend")
        phases: list[tuple[Any, str, str]] = [
            (*through, f"{CACHE}: rest"),
            (attention, "dispatch_attention_fn", TRANSFORMER),
            (bare, "dispatch_attention_fn", TRANSFORMER),
            *((Bank, name, f"{CACHE}: {name}") for name in ("write", "measure", "hide", "recall")),
            (Bank, "write_values", f"{CACHE}: write"),
            *(
                (kind, at, f"{CACHE}: rotate")
                for kind, at in ((Rotation, "__call__"), (Rope, "at"))
            ),
            (Bank, "rotate_into", f"{CACHE}: rotate"),
        ]
        if self.policy is not None:
            acts = ("open", "commit", "place", "see")
            phases += [(type(self.policy), act, f"{CACHE}: {act}") for act in acts]
        with ExitStack() as undo:
            for owner, name, phase in phases:
                undo.enter_context(_inside(timeline, owner, name, phase))
            module = self._transformer
            for hook in (
                module.register_forward_pre_hook(lambda *_: timeline.enter(TRANSFORMER)),
                module.register_forward_hook(lambda *_: timeline.leave(), always_call=True),
            ):
                undo.callback(hook.remove)
            clock.stamp()
            timeline.start()
            latents = next(self._chunks)
            if self._decoder is not None:
                with timeline.phase(DECODE):
                    self._decoder.decode(latents)
            return timeline.totals()


@contextmanager
def _replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Give a module, class or object another attribute for a while."""
    own, old = name in vars(owner), getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old) if own else delattr(owner, name)


@contextmanager
def _inside(timeline: Timeline, owner: Any, name: str, phase: str) -> Iterator[None]:
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with timeline.phase(phase):
            return function(*args, **kwargs)

    with _replaced(owner, name, timed):
        yield


class _Admissions:
    """Finds the most that the cache's work on one chunk in one layer takes for a while."""

    def __init__(self, meter: Memory) -> None:
        self.extra = 0
        self._meter = meter
        self._highest = 0
        meter.watch()

    def watched(self, *args: Any, **kwargs: Any) -> Any:
        self._highest = max(self._highest, self._meter.highest())
        self._meter.watch()
        before = self._meter.level()
        result = self._remember(*args, **kwargs)
        self.extra = max(self.extra, self._meter.highest() - before)
        return result

    def finish(self) -> int:
        """The highest level since the beginning."""
        return max(self._highest, self._meter.highest())

    _remember = staticmethod(attention.remember)


@contextmanager
def _admissions(meter: Memory) -> Iterator[_Admissions]:
    watch = _Admissions(meter)
    with ExitStack() as undo:
        # the module that defines it, and the one that calls it by itself
        for module in (attention, call):
            undo.enter_context(_replaced(module, "remember", watch.watched))
        yield watch
