"""The same policies inside somebody's checkout of the original Self-Forcing code family.

Axes: B samples, F latent frames, C latent channels, L = F x T tokens, H heads, D channels a head.

Those pipelines hold `pipeline.generator.model.blocks[i].self_attn` and hand dictionaries of cached
keys and values through every call. `attach_pipeline` lets the self-attentions go through this
project's cache instead, keeps the pipeline from allocating dictionaries that nobody reads, and
puts everything back on exit:

    with attach_pipeline(pipeline, TetherCache()):
        video = pipeline.inference(noise, prompts)

The pipeline's loop cannot declare its chunks and passes to a `Session`, so that is done here, and
they are counted: a chunk has as many denoising passes as `pipeline.denoising_step_list` has steps,
then one context pass. A chunk whose first call is at timestep 0 is one of a clean prefix and has
the context pass alone. A call at frame 0 begins the next video, which has a session of its own,
also after one that was interrupted in its first chunk: there the noise does not fall from one call
to the next, or falls to 0 too early. After a call that failed, the video has to begin again.
Nothing of those packages is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.backbones.patching import override
from tethercache.backbones.projections import project, project_out
from tethercache.cache import Bank, Policy, Rope
from tethercache.cache.call import current_call, finish_call
from tethercache.errors import SessionError
from tethercache.policies import as_policy
from tethercache.session import Session


@dataclass(frozen=True)
class _Generator:
    """What a session has to know of the model of a pipeline, see `cache.backbone.Backbone`."""

    generator: Any

    @property
    def place(self) -> int:
        return id(self.generator)

    @property
    def layers(self) -> int:
        return len(self.generator.model.blocks)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of latent frames of a size."""
        _, rows, columns = self.generator.model.patch_size
        return height // rows, width // columns

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        head_dim = self.generator.model.blocks[0].self_attn.head_dim
        return Rope(head_dim, *self.grid(height, width), device=device)

    def frame(self, height: int, width: int) -> tuple[int, int, int]:
        attention = self.generator.model.blocks[0].self_attn
        return math.prod(self.grid(height, width)), attention.num_heads, attention.head_dim

    def can_stop_early(self) -> bool:
        return False

    def attached(self, compiled: bool) -> nullcontext[None]:
        return nullcontext()  # it is attached for as long as its loop may call it


@dataclass
class _Video:
    """The video in progress, and what has been seen of its latest chunk."""

    session: Session
    first_level: float = 0.0  # timestep of the very first call
    level: float = math.inf  # of the latest call
    start: int = 0
    frames: int = 0
    calls: int = 0  # that have come to their end
    chunk: ExitStack = field(default_factory=ExitStack)
    open: bool = False


class PipelineSession:
    """Finds out which pass of which chunk each call is, and has a `Session` for each video.

    Made by `attach_pipeline`.
    """

    def __init__(self, pipeline: Any, policy: Policy, chunk_size: int | None) -> None:
        self.policy = policy
        self._chunk_size = chunk_size
        self._steps = len(pipeline.denoising_step_list)
        self._generator = _Generator(pipeline.generator)
        self._video = self._new_video()

    def caches(self) -> list[Bank]:
        """The layer caches of the video in progress, first block first."""
        return self._video.session.caches()

    @property
    def committed(self) -> int:
        """The number of latent frames that are committed."""
        return self._video.session.committed()

    @contextmanager
    def call(self, latents: Tensor, timestep: Tensor, start: int) -> Iterator[None]:
        """Declare a call of the generator, which is made inside the `with` block.

        Args:
            latents: `[B, F, C, h, w]`.
            timestep: of every frame, `[B, F]`.
            start: first token of the chunk, counted from the start of the video.

        Raises:
            SessionError: if the call does not follow from the ones before.
            ValueError: if the policy cannot serve the chunk.
        """
        level = float(timestep.max())
        frame = start // math.prod(self._generator.grid(*latents.shape[-2:]))
        video = self._video = self._video_of(frame, latents.shape[1], level)
        session = video.session
        commits = video.calls == self._steps or (video.calls == 0 and level == 0)
        with session.context_pass() if commits else session.denoising_pass():
            session.begin_call(latents.transpose(1, 2))
            video.level = level
            yield
            finish_call()
        video.calls += 1
        if commits:
            video.open = False
            video.chunk.close()

    def _video_of(self, frame: int, frames: int, level: float) -> _Video:
        """The video to which a call at latent frame `frame` belongs, in which its chunk is open."""
        video = self._video
        again = level >= video.level or (level == 0 and video.calls < self._steps)
        if video.session.failure:
            again = level >= video.first_level or level == 0
            if frame or not again:
                raise SessionError(
                    "an earlier call failed half-way, so the cache is not whole; begin the video "
                    "again at frame 0"
                )
        if not video.open or frame != video.start or (frame == 0 and again):
            return self._open_chunk(frame, frames, level)
        if frames != video.frames:
            raise SessionError(f"a chunk of {video.frames} frames was called with {frames}")
        if level >= video.level:
            raise SessionError(
                f"a call at timestep {level:g} after one at {video.level:g}: no pass can be "
                "made again; begin the video again at frame 0"
            )
        return video

    def _open_chunk(self, frame: int, frames: int, level: float) -> _Video:
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
        video.chunk.enter_context(video.session.chunk(frames, self._steps))
        video.open, video.start, video.frames = True, frame, frames
        video.calls, video.level = 0, math.inf
        return video

    def _new_video(self) -> _Video:
        return _Video(Session(self._generator, self.policy, chunk_size=self._chunk_size))


_attached: set[int] = set()


@contextmanager
def attach_pipeline(
    pipeline: Any, policy: Policy | str, *, chunk_size: int | None = None
) -> Iterator[PipelineSession]:
    """Let `policy` decide what a pipeline of the original code family remembers.

    Args:
        pipeline: a few-step causal pipeline: it has `generator.model.blocks`, each with a
            `self_attn`, and `denoising_step_list`.
        policy: a cache policy, for example `TetherCache()`, or its spec.
        chunk_size: the largest chunk after the first; default the pipeline's
            `num_frame_per_block`.

    Yields:
        The session, for a look at its caches; the pipeline is used as ever.

    Raises:
        ValueError: if the pipeline has another structure, or an argument is not what it has to be.
        SessionError: if it is attached already; its loop cannot say whose a call is.
    """
    policy = as_policy(policy)
    if chunk_size is not None:
        whole_number("chunk_size", chunk_size, least=1)
    blocks = getattr(getattr(getattr(pipeline, "generator", None), "model", None), "blocks", None)
    if blocks is None or not hasattr(pipeline, "denoising_step_list"):
        raise ValueError(
            "`pipeline` must be a few-step pipeline of the Self-Forcing family, with "
            "`generator.model.blocks` and `denoising_step_list`"
        )
    place = id(pipeline.generator)
    if place in _attached:
        raise SessionError("the pipeline is attached already; leave that session first")
    chunk_size = chunk_size or getattr(pipeline, "num_frame_per_block", None)
    session = PipelineSession(pipeline, policy, chunk_size)
    forward = pipeline.generator.forward

    def declared(*args: Any, **kwargs: Any) -> Any:
        def given(name: str, place: int) -> Any:
            return kwargs[name] if name in kwargs else args[place]

        latents, timestep = given("noisy_image_or_video", 0), given("timestep", 2)
        with session.call(latents, timestep, int(given("current_start", 5) or 0)):
            return forward(*args, **kwargs)

    with ExitStack() as undo:
        _attached.add(place)
        undo.callback(_attached.remove, place)
        override(undo, pipeline.generator, "forward", declared)
        for layer, block in enumerate(blocks):
            override(undo, block.self_attn, "forward", _forward(layer, block.self_attn))
        if hasattr(pipeline, "kv_cache1"):
            override(undo, pipeline, "kv_cache1", _empty_caches(len(blocks)))
        if hasattr(pipeline, "_initialize_kv_cache"):

            def initialise(*args: Any, **kwargs: Any) -> None:
                pipeline.kv_cache1 = _empty_caches(len(blocks))

            override(undo, pipeline, "_initialize_kv_cache", initialise)
        yield session


def _forward(layer: int, attention: Any) -> Callable[..., Tensor]:
    """What stands in for the `forward` of one self-attention; further arguments are not read."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attn = _as_diffusers_names_it(attention)
        query, key, value = project(attn, x)
        output = current_call().attend(layer, query, key, value.type_as(query))
        assert output is not None  # context passes are run whole
        return project_out(attn, output)

    return forward


def _as_diffusers_names_it(attention: Any) -> Any:
    """The parts of an attention of the original code under the names of `projections`."""
    return SimpleNamespace(
        to_q=attention.q,
        to_k=attention.k,
        to_v=attention.v,
        norm_q=attention.norm_q,
        norm_k=attention.norm_k,
        to_out=(attention.o, _same),
        heads=attention.num_heads,
        fused_projections=False,
    )


def _same(x: Tensor) -> Tensor:
    return x


def _empty_caches(blocks: int) -> list[dict[str, Tensor]]:
    """Dictionaries with the names that the pipelines reset between videos, and no memory."""
    return [
        {
            "k": torch.empty(0),
            "v": torch.empty(0),
            "global_end_index": torch.zeros(1, dtype=torch.long),
            "local_end_index": torch.zeros(1, dtype=torch.long),
        }
        for _ in range(blocks)
    ]
