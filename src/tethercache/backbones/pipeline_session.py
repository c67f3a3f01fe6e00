"""Which pass of which chunk a call is, for loops that cannot say so.

Axes: B samples, F latent frames, C latent channels.

The loop of a pipeline of the original code family declares nothing to a `Session`, so that is done
here, and its calls are counted: a chunk has as many denoising passes as the pipeline has steps,
then one context pass. A chunk whose first call is at timestep 0 is one of a clean prefix and has
the context pass alone. Where there is no list of steps, the call at timestep 0 is the context pass.
A call at frame 0 begins the next video, which has a session of its own, also after one that was
interrupted in its first chunk: there the noise does not fall from one call to the next, or falls to
0 too early. After a call that failed, the video has to begin again.

A call at timestep 0 on frames that are committed, or any call while `recaching`, reads them again,
as LongLive does where the prompt changes: the first such call forgets all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tethercache.cache import Bank, Policy, Rope, Switch
from tethercache.cache.call import current_call, finish_call
from tethercache.cache.heads import Heads
from tethercache.errors import SessionError
from tethercache.session import DEFAULT_STREAM, Session

NEGATIVE = "negative"


@dataclass(frozen=True)
class Generator:
    """What a session has to know of the model of a pipeline, see `cache.backbone.Backbone`.

    Args:
        generator: the pipeline's.
        model: the transformer in it, without what PEFT may have put around it.
    """

    generator: Any
    model: Any

    @property
    def place(self) -> int:
        """A number that no other model has."""
        return id(self.generator)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.model.blocks)

    @property
    def heads(self) -> Heads:
        """All heads are here."""
        return Heads()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of latent frames of a size."""
        _, rows, columns = self.model.patch_size
        return height // rows, width // columns

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        """The rotary embedding for latent frames of a size."""
        head_dim = self.model.blocks[0].self_attn.head_dim
        return Rope(head_dim, *self.grid(height, width), device=device)

    def frame(self, height: int, width: int) -> tuple[int, int, int]:
        """Tokens, heads and channels a head of a latent frame of a size."""
        attention = self.model.blocks[0].self_attn
        return math.prod(self.grid(height, width)), attention.num_heads, attention.head_dim

    def can_stop_early(self) -> bool:
        """Whether what is behind the last block's commit may be left out: never."""
        return False

    def attached(self, compiled: bool) -> nullcontext[None]:
        """Nothing: it is attached for as long as its loop may call it."""
        return nullcontext()


@dataclass
class _Seen:
    """What has been seen of a chunk in one stream."""

    level: float = math.inf  # of the latest call
    calls: int = 0  # that have come to their end
    committed: bool = False


@dataclass
class _Video:
    """The video in progress, and what has been seen of its latest chunk."""

    session: Session
    first_level: float = 0.0  # timestep of the very first call
    denoised: bool = False  # whether it has more than a clean prefix
    prompt: Tensor | None = None
    start: int = 0
    frames: int = 0
    steps: int | None = None
    seen: dict[str, _Seen] = field(default_factory=dict)
    chunk: ExitStack = field(default_factory=ExitStack)
    open: bool = False
    read_to: int = 0  # where the latest call ended, if it has read frames again


class PipelineSession:
    """Finds out which pass of which chunk each call is, and has a `Session` for each video.

    Made by `attach_pipeline`.
    """

    def __init__(
        self, pipeline: Any, generator: Generator, policy: Policy, chunk_size: int | None
    ) -> None:
        self.policy = policy
        self._pipeline = pipeline
        self._chunk_size = chunk_size
        self._generator = generator
        self._recaching = self._keep_sink = False
        self._video = self._new_video()

    def caches(self, stream: str = DEFAULT_STREAM) -> list[Bank]:
        """The layer caches of the video in progress, first block first.

        Args:
            stream: `negative` for those of classifier-free guidance's other half.
        """
        return self._video.session.caches(stream)

    @property
    def committed(self) -> int:
        """The number of latent frames that are committed."""
        return self._video.session.committed()

    @contextmanager
    def recaching(self, *, keep_sink: bool) -> Iterator[None]:
        """Take the calls inside for such that read committed frames again.

        Args:
            keep_sink: whether the sink stays as it is, unless it is read again itself.
        """
        self._recaching, self._keep_sink = True, keep_sink
        try:
            yield
        finally:
            self._recaching = self._keep_sink = False

    def skipped(self, frames: int, start: int) -> int:
        """How many of the first frames of a call that reads again are not worth it.

        Args:
            frames: latent frames of the call.
            start: the first of them.
        """
        if not self._recaching:
            return 0
        sink = self.policy.sink_size if self._keep_sink and start else 0
        return max(0, sink - start, frames - (self.policy.budget - sink))

    def frame(self, latents: Tensor, start: int) -> int:
        """The latent frame that begins with token `start`; `latents` `[B, F, C, h, w]`."""
        tokens = math.prod(self._generator.grid(*latents.shape[-2:]))
        assumed = getattr(self._pipeline, "frame_seq_length", tokens)
        if start and assumed != tokens:
            raise ValueError(
                f"a latent frame of this size has {tokens} tokens, but `frame_seq_length` of the "
                f"pipeline is {assumed}"
            )
        return start // tokens

    @contextmanager
    def call(
        self,
        latents: Tensor,
        timestep: Tensor,
        frame: int,
        *,
        prompt: Tensor | None = None,
        stream: str = DEFAULT_STREAM,
    ) -> Iterator[None]:
        """Declare a call of the generator, which is made inside the `with` block.

        Args:
            latents: `[B, F, C, h, w]`.
            timestep: of every frame, `[B, F]`.
            frame: the first latent frame of the call, counted from the start of the video.
            prompt: text embeddings. The policy is told where they change between two chunks.
            stream: whose keys and values these are.

        Raises:
            SessionError: if the call does not follow from the ones before.
            ValueError: if the policy cannot serve the chunk, or it is one of several that are
                denoised jointly.
        """
        levels = set(timestep.flatten().tolist())
        if len(levels - {0}) > 1:
            raise ValueError(
                "the frames of a call are at several noise levels: joint denoising of chunks is "
                "not served, because a chunk is committed before the next one begins"
            )
        level = float(max(levels))
        if self._reads_again(frame, latents.shape[1], level):
            with self._read_again(latents, frame, prompt, stream):
                yield
            return
        video = self._video = self._video_of(frame, latents.shape[1], level, prompt, stream)
        seen = video.seen.setdefault(stream, _Seen())
        commits = _commits(seen, level, video.steps)
        session = video.session
        declared = session.context_pass() if commits else session.denoising_pass()
        with session.stream(stream), declared:
            session.begin_call(latents.transpose(1, 2))
            seen.level = level
            yield
            if commits or not seen.calls:
                self._check_reached()
            finish_call()
        seen.calls += 1
        if commits:
            seen.committed = True
            video.denoised |= seen.calls > 1
            if all(name in video.seen and video.seen[name].committed for name in self._streams()):
                video.open = False
                video.chunk.close()

    def _video_of(
        self, frame: int, frames: int, level: float, prompt: Tensor | None, stream: str
    ) -> _Video:
        """The video to which a call at latent frame `frame` belongs, in which its chunk is open."""
        video = self._video
        seen = video.seen.get(stream)
        again = seen is not None and _again(seen, level, video.steps)
        if video.session.failure:
            again = level >= video.first_level or level == 0
            if frame or not again:
                raise SessionError(
                    "an earlier call failed half-way, so the cache is not whole; begin the video "
                    "again at frame 0"
                )
        if not video.open or frame != video.start or (frame == 0 and again):
            return self._open_chunk(frame, frames, level, prompt)
        if frames != video.frames:
            raise SessionError(f"a chunk of {video.frames} frames was called with {frames}")
        if seen is not None and level >= seen.level:
            raise SessionError(
                f"a call at timestep {level:g} after one at {seen.level:g}: no pass can be "
                "made again; begin the video again at frame 0"
            )
        return video

    def _open_chunk(self, frame: int, frames: int, level: float, prompt: Tensor | None) -> _Video:
        """The video in which the chunk at latent frame `frame` begins: a new one at frame 0."""
        video = self._video
        if frame == 0:
            video = self._new_video()
            video.first_level = level
        elif frame != video.session.committed():
            raise SessionError(
                f"a call at latent frame {frame}, but {video.session.committed()} are committed; "
                "begin the video again at frame 0"
            )
        _tell_of_prompt(video, prompt, frame)
        video.steps, video.read_to = self._steps(video), 0
        video.chunk.enter_context(video.session.chunk(frames, video.steps))
        video.open, video.start, video.frames, video.seen = True, frame, frames, {}
        return video

    def _reads_again(self, frame: int, frames: int, level: float) -> bool:
        """Whether a call is on clean frames that are committed, and no beginning of a video."""
        video = self._video
        return self._recaching or (
            level == 0
            and frame > 0
            and not (video.open or video.session.failure)
            and frame + frames <= video.session.committed()
        )

    @contextmanager
    def _read_again(
        self, latents: Tensor, frame: int, prompt: Tensor | None, stream: str
    ) -> Iterator[None]:
        """Declare a call that reads frames of before again, and replaces what is remembered."""
        video, end = self._video, frame + latents.shape[1]
        session = video.session
        if end > session.committed():
            raise SessionError(
                f"the latent frames {frame} to {end - 1} are to be read again, but only "
                f"{session.committed()} are committed"
            )
        _tell_of_prompt(video, prompt, end)
        anew, sink = frame != video.read_to or not frame, self._keep_sink and frame > 0
        if anew and sink:
            for bank in session.caches(stream):
                bank.keep(bank.slots(0, min(self.policy.sink_size, bank.readable)))
                bank.release()
        index = torch.arange(frame, end, device=latents.device).expand(len(latents), -1)
        with session.stream(stream), session.replay_pass(index, anew=anew and not sink):
            session.begin_call(latents.transpose(1, 2))
            yield
            self._check_reached()
            finish_call()
        video.read_to = end

    def _steps(self, video: _Video) -> int | None:
        """How many denoising passes the chunk that begins has; None where no list says so."""
        steps = getattr(self._pipeline, "denoising_step_list", None)
        first = getattr(self._pipeline, "denoising_step_list_first_chunk", None)
        if first is not None and not video.denoised:
            steps = first
        return None if steps is None else len(steps)

    def _streams(self) -> tuple[str, ...]:
        """What is called of each chunk: one stream, or two where there is guidance."""
        guided = hasattr(self._pipeline, "kv_cache_neg")
        if guided and getattr(self._pipeline, "guidance_scale", None) != 1:
            return DEFAULT_STREAM, NEGATIVE
        return (DEFAULT_STREAM,)

    def _check_reached(self) -> None:
        """Refuse a pass that the caches need, if the model has spared itself blocks of it."""
        if current_call().reached < self._generator.layers - 1:
            raise SessionError(
                "the model has left out blocks in the first or the context pass of a chunk, which "
                "the caches need; switch its TeaCache off"
            )

    def _new_video(self) -> _Video:
        return _Video(Session(self._generator, self.policy, chunk_size=self._chunk_size))


def _commits(seen: _Seen, level: float, steps: int | None) -> bool:
    """Whether the next call of a chunk is its context pass."""
    if steps is None:
        return level == 0
    return seen.calls == steps or (seen.calls == 0 and level == 0)


def _again(seen: _Seen, level: float, steps: int | None) -> bool:
    """Whether a call at this level can only be the first one of a chunk that is made again."""
    return level >= seen.level or (level == 0 and steps is not None and seen.calls < steps)


def _tell_of_prompt(video: _Video, prompt: Tensor | None, frame: int) -> None:
    """Tell the policy if another prompt holds from latent frame `frame` on."""
    if frame and not _same(prompt, video.prompt):
        video.session.on(Switch())
    video.prompt = prompt


def _same(prompt: Tensor | None, before: Tensor | None) -> bool:
    """Whether two prompts are the same; looks at the numbers only where the tensors differ."""
    if prompt is before or prompt is None or before is None:
        return True
    return prompt.shape == before.shape and torch.equal(prompt, before)
