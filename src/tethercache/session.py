"""Sessions: which model call belongs to which video, chunk and pass.

A session is the state of one video in the making, or of several that share its chunks (streams). It
knows no model: a call of an attached model goes to the session that has a pass open, and the layers
ask for the call in progress (`cache/call.py`). Any number of sessions share one model; they
may take turns within a thread or run in several, for a pass is open only in the thread (or the
asynchronous task) that declared it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from tethercache.cache import Bank, Event, PassKind, Policy
from tethercache.cache.backbone import Backbone
from tethercache.cache.call import Call, expecting, passes
from tethercache.cache.stream import Stream, check_frame
from tethercache.errors import SessionError
from tethercache.state import State, check_fits

DEFAULT_STREAM = "main"
STATE_VERSION = 1


class Session:
    """The state of a video in the making. Made by `attach`, which takes it again later.

    Args:
        backbone: the model.
        policy: decides what it remembers. Another may follow, see `Policy.check_follows`.
        chunk_size: the largest chunk after the first, in latent frames; None: any.
        keep_rotated: keep readable keys a second time, as attention reads them.
        backend: attention backend of diffusers' dispatcher; None: each layer's own.
        compiled: whether the blocks' own arithmetic is compiled.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: Policy,
        *,
        chunk_size: int | None = None,
        keep_rotated: bool = True,
        backend: str | None = None,
        compiled: bool = False,
    ) -> None:
        self.backbone = backbone
        self.policy = policy
        self.compiled = compiled
        self._chunk_size = chunk_size
        self._keep_rotated = keep_rotated
        self._backend = backend
        self._streams: dict[str, Stream] = {}
        self._selected = DEFAULT_STREAM
        self._frames = 0
        self._steps: int | None = None
        self._pass: PassKind | None = None
        self._replayed: Tensor | None = None  # which frames are read again
        self._discarding = False
        self._failure = ""  # what has gone wrong, for good
        self._refusal: Exception | None = None  # the latest, of a call that has changed nothing

    @property
    def failure(self) -> str:
        """What has gone wrong, for good, so that the session takes no more; empty: nothing."""
        return self._failure

    def caches(self, stream: str = DEFAULT_STREAM) -> list[Bank]:
        """The layer caches of a stream, first block first."""
        return self._stream(stream).caches

    def committed(self, stream: str = DEFAULT_STREAM) -> int:
        """The number of latent frames that the context passes of a stream have committed."""
        return self._stream(stream).committed

    def attached(self) -> AbstractContextManager[None]:
        """Attach to the model inside a `with` block, as `attach` does.

        Enter it for as long as there is a chunk open, or longer.
        """
        return self.backbone.attached(self.compiled)

    def on(self, event: Event) -> None:
        """Tell the policy, bank by bank, of an event between two chunks.

        An exception breaks the session.

        Raises:
            SessionError: if a chunk is open.
        """
        self._check_between_chunks("an event")
        try:
            for stream in self._begun().values():
                for bank in stream.caches:
                    self.policy.on(bank, event)
                    bank.tell("event", change=event)
        except BaseException as error:
            self._break("an event", error)
            raise

    def state_dict(self) -> State:
        """All that the session has to remember between two chunks; see `tethercache.state`.

        Raises:
            SessionError: if a chunk is open, or something has failed before.
        """
        self._check_between_chunks("a state")
        streams = {name: stream.state_dict() for name, stream in self._begun().items()}
        return {"made_for": self._made_for(), "streams": streams}

    def load_state_dict(
        self, state: Mapping[str, Any], device: torch.device | str | None = None
    ) -> None:
        """Go on where another session of this policy and such a model was; forget what is here.

        A session in which something has failed is whole again.

        Args:
            state: what `state_dict` returned. Its tensors are copied.
            device: where the caches shall be; None: where the tensors are.

        Raises:
            ValueError: naming what differs; nothing has changed then.
            SessionError: if a chunk is open.
        """
        if self._frames:
            raise SessionError("no state can be loaded while a chunk is open")
        check_fits("session", state, self._made_for())
        streams = {name: self._new_stream() for name in state["streams"]}
        for name, saved in state["streams"].items():
            check_frame(saved, self.backbone)
            streams[name].load_state_dict(saved, device)
        self._streams, self._failure = streams, ""

    def fork(self) -> Session:
        """Another session that goes on from here and shares nothing with this one.

        Raises:
            SessionError: if a chunk is open, or something has failed before.
        """
        self._check_between_chunks("a fork")
        other = copy.copy(self)
        other._streams = {}
        for name, stream in self._begun().items():
            stream.copy_to(other._stream(name))
        return other

    def _made_for(self) -> State:
        layers = self.backbone.layers
        return {"version": STATE_VERSION, "policy": repr(self.policy), "layers": layers}

    def _begun(self) -> dict[str, Stream]:
        return {name: stream for name, stream in self._streams.items() if stream.committed}

    def _check_between_chunks(self, what: str) -> None:
        self._check_whole()
        if self._frames:
            raise SessionError(f"{what} has its place between two chunks, but one is open")

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Send the model calls inside to another stream, which has its own cache and prompt.

        A stream may begin in any chunk, if the policy can serve that chunk as a first one.
        """
        previous, self._selected = self._selected, name
        try:
            yield
        finally:
            self._selected = previous

    @contextmanager
    def chunk(self, frames: int, steps: int | None = None) -> Iterator[None]:
        """Declare the next chunk of `frames` latent frames.

        Any exception that leaves it breaks the session, which then takes no more.

        Args:
            frames: latent frames.
            steps: how many denoising passes it will have, for policies that ask; None: not said.

        Raises:
            ValueError: if the policy cannot serve a chunk of this size at this place.
            SessionError: if a chunk is open already, if this one ends without its context pass, or
                if one of its passes has failed.
        """
        if self._frames:
            raise SessionError("a chunk is open already; finish it before the next one")
        self._check_whole()
        if frames < 1:
            raise ValueError(f"a chunk must have at least 1 latent frame, not {frames}")
        for committed in {stream.committed for stream in self._streams.values()} or {0}:
            self._check_chunk(committed, frames)
        for stream in self._streams.values():
            stream.passes = []
        self._frames, self._steps = frames, steps
        try:
            yield
            self._close_chunk(frames)
        except BaseException as error:
            self._break("an earlier chunk", error)
            raise
        finally:
            self._frames = 0

    @contextmanager
    def denoising_pass(self) -> Iterator[None]:
        """Declare one denoising step: one model call, one a stream where there are several.

        An exception that leaves a pass breaks the session, unless no model call had begun.
        """
        with self._declared(PassKind.DENOISING):
            yield

    @contextmanager
    def context_pass(self, *, output: bool = True) -> Iterator[None]:
        """Declare the pass on clean latents that commits the chunk.

        An exception that leaves a pass breaks the session, unless no model call had begun.

        Args:
            output: whether the model's output is needed. If not, the last block stops after its
                commit, which changes nothing in any cache, and the output may be NaN. (Models whose
                layers carry offload hooks of their own are run whole: such hooks expect it.)
        """
        with self._declared(PassKind.CONTEXT):
            self._discarding = not output and self.backbone.can_stop_early()
            try:
                yield
            finally:
                self._discarding = False

    @contextmanager
    def replay_pass(self, index: Tensor, *, anew: bool = False) -> Iterator[None]:
        """Declare a pass on clean latents of frames of before, between two chunks.

        An exception that leaves it breaks the session.

        Args:
            index: which frames of the stream they are, int64 `[B, F]`, in the order of time.
            anew: whether all that is remembered is forgotten first.
        """
        self._check_between_chunks("a replay pass")
        try:
            for stream in self._begun().values():
                stream.begin_replay(anew=anew)
            self._frames, self._steps, self._replayed = index.shape[1], None, index
            self._discarding = self.backbone.can_stop_early()
            with self._declared(PassKind.REPLAY):
                yield
        except BaseException as error:
            self._break("a replay pass", error)
            raise
        finally:
            self._frames, self._replayed, self._discarding = 0, None, False

    @contextmanager
    def _declared(self, kind: PassKind) -> Iterator[None]:
        if not self._frames:
            raise SessionError(f"a {kind.value} pass needs an open chunk: `with session.chunk(n):`")
        if self._pass is not None:
            raise SessionError(f"a {self._pass.value} pass is open already")
        self._check_whole()
        for stream in self._streams.values():
            stream.call = None
        try:
            self._pass = kind
            with expecting(self):
                yield
                self._close_pass(kind)
        except BaseException as error:
            if error is not self._refusal or self._called():
                self._break(f"a {kind.value} pass", error)
            raise
        finally:
            self._pass = self._refusal = None
            for call in self._called():
                call.leave()

    def _called(self) -> list[Call]:
        """The calls of the open pass, one a stream at most."""
        return [stream.call for stream in self._streams.values() if stream.call is not None]

    def _close_pass(self, kind: PassKind) -> None:
        calls = self._called()
        if not calls:
            raise SessionError(f"the {kind.value} pass ended without a model call")
        if not all(call.finished for call in calls):
            raise SessionError(f"a model call in the {kind.value} pass has failed half-way")
        for stream in self._streams.values():
            if stream.call is not None:
                stream.passes.append(kind)

    def _close_chunk(self, frames: int) -> None:
        self._check_whole()
        used = {name: stream for name, stream in self._streams.items() if stream.passes}
        if not used:
            raise SessionError("the chunk ended without a pass")
        for name, stream in used.items():
            if stream.passes[-1] is not PassKind.CONTEXT:
                raise SessionError(f"the chunk of stream {name!r} ended without a context pass")
        for stream in used.values():
            stream.committed += frames

    def _break(self, where: str, error: BaseException) -> None:
        reason = " ".join(str(error).split())
        self._failure = self._failure or (
            f"{where} failed ({type(error).__name__}{': ' if reason else ''}{reason})"
        )

    def _check_whole(self) -> None:
        if self._failure:
            raise SessionError(
                f"{self._failure}, so the cache is not whole; attach again and begin afresh"
            )

    def _check_chunk(self, committed: int, frames: int) -> None:
        self.policy.check_chunk(committed, frames)
        if committed and self._chunk_size is not None and frames > self._chunk_size:
            raise ValueError(
                f"a chunk of {frames} is larger than the `chunk_size` ({self._chunk_size}) "
                "of the session"
            )

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = self._new_stream()
        return self._streams[name]

    def _new_stream(self) -> Stream:
        sizes = (self.policy.budget, self.policy.reserve(self._chunk_size))
        return Stream.of(self.backbone, *sizes, keep_rotated=self._keep_rotated)

    # What stands in the model uses ---------------------------------------------------------

    @property
    def place(self) -> int:
        """Number of the model."""
        return self.backbone.place

    def begin_call(self, latents: Tensor, prompt_embeds: Tensor | None = None) -> None:
        """Check a model call against what was declared, and make it the call in progress.

        Args:
            latents: `[B, C, F, h, w]`.
            prompt_embeds: `[B, L_text, C_text]`; None where the model keeps the text itself.

        Raises:
            SessionError: if no call is expected; nothing has changed then.
            ValueError: if the sizes are not those declared, or the policy cannot serve a stream
                that begins here; nothing has changed then.
        """
        try:
            stream = self._admit(latents)
        except (SessionError, ValueError) as error:
            self._refusal = error
            raise
        assert self._pass is not None
        assert stream.rope is not None
        if prompt_embeds is not None:
            stream.prompt.take(prompt_embeds)
        coming = stream.coming(self._frames, latents.device)
        stream.call = Call(
            self.policy,
            passes(self._pass, len(stream.passes), self._steps, len(stream.caches)),
            self._frames,
            coming if self._replayed is None else self._replayed,
            stream.rope,
            stream.caches,
            stream.prompt,
            backend=self._backend,
            discarding=self._discarding,
            compiled=self.compiled,
        )
        stream.call.begin()

    def _admit(self, latents: Tensor) -> Stream:
        """The stream to which the call belongs, if it may be made."""
        assert self._pass is not None
        self._check_whole()
        begun = self._streams.get(self._selected)
        stream = begun or self._new_stream()
        if stream.call is not None:
            raise SessionError(f"a second call in one {self._pass.value} pass of one stream")
        if PassKind.CONTEXT in stream.passes:
            raise SessionError("the chunk is committed already; open the next one")
        frames = latents.shape[2]
        if frames != self._frames:
            raise ValueError(f"the chunk was declared with {self._frames} frames, got {frames}")
        if begun is None:
            self._check_chunk(0, frames)
        stream.fit(latents, self.backbone)
        self._streams[self._selected] = stream
        return stream
