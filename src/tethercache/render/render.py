"""A video in the making."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from tethercache.pipeline.inputs import action_of
from tethercache.rollout.plan import first_frame
from tethercache.script import Change
from tethercache.state import State, check_fits

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.request import VideoPlan, VideoRequest
    from tethercache.rollout import Rollout
    from tethercache.trace import Tracer
    from tethercache.video import PreviewDecoder, StreamingDecoder

STATE_VERSION = 1


class Decode(Protocol):
    """How what a rollout still makes becomes frames; see `CausalVideoPipeline.frames`."""

    def __call__(
        self, chunks: Generator[Tensor, None, None], decoder: Any, num_frames: int
    ) -> Generator[Tensor, None, None]:
        """Uint8 frames `[1, F, H, W, 3]`, `num_frames` at most."""


class Render:
    """A video in the making: its frames, chunk by chunk; memory does not grow with its length.

    Between two chunks lies a border. The state there is everything that the coming frames depend
    on; it is kept where `wanted` asks for it, and `restore` goes on from it, bit for bit. (A chunk
    may be denoised while the one before is decoded, so the state of a border has to be asked for
    before the border is reached.)

    Close it, or use it up: it holds the model until then.

    Args:
        request: what is made.
        plan: its chunks and its length.
        rollout: makes its latents.
        decoder: decodes them.
        decode: what becomes of both.
        embeds: text embeddings of a prompt `[1, L, C_text]`.
        fps: frames a second.
        again: begins another render.
        tracer: observes what is remembered; None: nobody does.

    Attributes:
        request: what is made, with all that was changed on the way.
        wanted: is asked, when the latents of a chunk are made, whether the state behind the chunk
            shall be kept; it is told how many chunks there are then.
        remember: is asked the same; these states stay in host memory, for `rewind` and `branch`.
        chunks_made: chunks whose frames were given out.
        frames_made: frames that were given out.
    """

    def __init__(
        self,
        request: VideoRequest,
        plan: VideoPlan,
        rollout: Rollout,
        decoder: StreamingDecoder | PreviewDecoder,
        decode: Decode,
        embeds: Callable[[str], Tensor],
        fps: Fraction,
        again: Callable[[VideoRequest], Render],
        tracer: Tracer | None = None,
    ) -> None:
        self.request = request
        self.plan = plan
        self.rollout = rollout
        self.decoder = decoder
        self.wanted: Callable[[int], bool] = lambda chunks: False
        self.chunks_made = 0
        self.frames_made = 0
        self._decode = decode
        self._embeds = embeds
        self._fps = fps
        self._again = again
        self._tracer = tracer
        self.remember: Callable[[int], bool] = lambda chunks: False
        self._remembered = {0: self.first_state()}
        self._changed: list[Change] = []  # on the way
        self._states: dict[int, State] = {}
        self._traces: dict[int, dict[str, Any]] = {}
        self._begin()

    def _begin(self) -> None:
        """Let frames come from where rollout and decoder are."""
        left = self.plan.num_frames - self.frames_made
        self._states.clear()
        self._traces.clear()
        if self._tracer is not None:
            self._tracer.watch(self.rollout.session)
        self._decoded = self.chunks_made
        self._frames = self._decode(self._latents(), _Decoding(self), left)

    def _latents(self) -> Generator[Tensor, None, None]:
        """The latents of all chunks that are left; keeps the states that are wanted."""
        for latents in self.rollout.rest():
            made, tracer = self.rollout.chunks_made, self._tracer
            if tracer is not None:
                chunk = self.plan.chunks[made - 1]
                stop = chunk.start + chunk.frames
                self._traces[made] = tracer.take(made - 1, chunk.start, stop)
            if self.wanted(made) | self.remember(made):
                self._states[made] = {"rollout": self.rollout.state_dict(), **self._trace_state()}
            yield latents

    def _trace_state(self) -> State:
        return {} if self._tracer is None else {"trace": self._tracer.state_dict()}

    def decode_next(self, latents: Tensor) -> Tensor:
        """Decode a chunk; adds what the decoder remembers to the state behind it, if it is kept."""
        frames = self.decoder.decode(latents)
        self._decoded += 1
        if self._decoded in self._states:
            self._states[self._decoded]["decoder"] = self.decoder.state_dict()
        return frames

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The next chunk of frames, uint8 `[F, H, W, 3]` on the CPU."""
        self._states.pop(self.chunks_made - 1, None)
        self._traces.pop(self.chunks_made, None)
        frames = next(self._frames)[0]
        self.chunks_made += 1
        self.frames_made += len(frames)
        if self.chunks_made in self._states and self.remember(self.chunks_made):
            self._remembered[self.chunks_made] = self._state_here()
        return frames

    def take_state(self) -> State | None:
        """The state at the border just reached, if it was wanted; None if not.

        It is given out once.
        """
        if self.chunks_made not in self._states:
            return None
        state = self._state_here()
        del self._states[self.chunks_made]
        return state

    def take_trace(self) -> dict[str, Any] | None:
        """What the cache did in the chunk just given out; see `tethercache.trace`.

        It is given out once; None where nobody observes.
        """
        return self._traces.pop(self.chunks_made, None)

    def _state_here(self) -> State:
        numbers = {"chunks_made": self.chunks_made, "frames_made": self.frames_made}
        kept = self._states[self.chunks_made]
        return {"made_for": {"version": STATE_VERSION}, **numbers, **kept}

    def first_state(self) -> State:
        """The state before the first frame, as long as none was made."""
        made = {"rollout": self.rollout.state_dict(), "decoder": self.decoder.state_dict()}
        return {"made_for": {"version": STATE_VERSION}, "chunks_made": 0, "frames_made": 0, **made}

    def change(self, change: Change) -> int:
        """Let something change that the request says nothing of.

        Args:
            change: it takes effect at the first chunk from its second on.

        Returns:
            The first frame of that chunk.

        Raises:
            ValueError: the latents of that chunk are made already, or there is none.
        """
        chunks = self.plan.chunks
        chunk = max(chunks.at_or_after(change.at, self._fps), chunks.first_generated)
        if chunk >= chunks.num_chunks:
            raise ValueError(f"no chunk begins at second {change.at:g} or later")
        embeds = None if change.text is None else self._embeds(change.text)
        times = (float(self._fps), 4)
        action = action_of(change, embeds, [self.request.sample], times)
        self.rollout.act(chunk, action)
        return first_frame(chunks[chunk].start)

    def switch(self, text: str, how: str = "soft") -> int:
        """Let another prompt hold from the next chunk on that is not made yet.

        Args:
            text: the prompt.
            how: see `Change`.

        Returns:
            The first frame that may be another.

        Raises:
            ValueError: the prompt is not encoded, or no chunk is left.
        """
        return self._change_now(text=text, how=how)

    def pin(self, start: float, stop: float) -> int:
        """Keep what seconds `start` to `stop` show in memory; returns as `switch` does."""
        return self._change_now(pin=(start, stop))

    def forget(self, start: float, stop: float) -> int:
        """Let nothing that seconds `start` to `stop` show be seen again; returns as `switch`."""
        return self._change_now(forget=(start, stop))

    def _change_now(self, **what: Any) -> int:
        chunks, number = self.plan.chunks, self.rollout.chunks_made
        if not 0 < number < chunks.num_chunks:
            raise ValueError("a change needs chunks before it and behind it")
        change = Change(float(first_frame(chunks[number].start) / self._fps), **what)
        frame = self.change(change)
        self.request = replace(self.request, then=(*self.request.then, change))
        self._changed.append(change)
        return frame

    def rewind(self, seconds: float) -> float:
        """Go back to the last border between chunks at or before a second.

        What was changed on the way behind it no longer holds. From the newest remembered state
        before the border, else from the start, the chunks up to it are made again, which takes its
        time; their frames are not given out.

        Returns:
            The second of the border.

        Raises:
            ValueError: the video is not that far.
        """
        chunks = self.plan.chunks
        if not 0 <= seconds * self._fps < self.frames_made:
            raise ValueError(f"second {seconds:g} must be in the video so far")
        target = chunks.at_or_before(seconds, self._fps)
        self._frames.close()
        self.rollout.withdraw(target)
        gone = [c for c in self._changed if chunks.at_or_after(c.at, self._fps) >= target]
        self._changed = [change for change in self._changed if change not in gone]
        kept = tuple(change for change in self.request.then if change not in gone)
        self.request = replace(self.request, then=kept)
        states = {number: state for number, state in self._remembered.items() if number <= target}
        self._remembered = states
        self.restore(states[max(states)])
        while self.chunks_made < target:
            next(self)
        return float(self.frames_made / self._fps)

    def branch(self, request: VideoRequest | None = None) -> Render:
        """Another render that goes on from the newest remembered state; this one stays as it is.

        Args:
            request: what it makes, a request that agrees with this one so far; None: the same.

        Returns:
            It begins at the remembered border: see its `frames_made`.
        """
        other = self._again(self.request if request is None else request)
        other.restore(self._remembered[max(self._remembered)])
        return other

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a border of this request, or of one that agrees with it up to there.

        Args:
            state: what `take_state` returned, of this or another `Render`. Its tensors are copied.

        Raises:
            ValueError: naming what differs; or it was not traced, and this is.
        """
        check_fits("render", state, {"version": STATE_VERSION})
        if self._tracer is not None:
            if state["chunks_made"] and "trace" not in state:
                raise ValueError("a render that is traced cannot go on with one that was not")
            self._tracer.load_state_dict(state.get("trace"))
        self._frames.close()
        self.rollout.load_state_dict(state["rollout"])
        self.decoder.load_state_dict(state["decoder"])
        self.chunks_made, self.frames_made = state["chunks_made"], state["frames_made"]
        self._begin()

    def close(self) -> None:
        """Stop here and leave the model as it was."""
        self._frames.close()


class _Decoding:
    """The decoder of a render, as the stream of frames calls it."""

    def __init__(self, render: Render) -> None:
        self._render = render

    def decode(self, latents: Tensor) -> Tensor:
        return self._render.decode_next(latents)
