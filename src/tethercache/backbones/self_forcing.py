"""The same policies inside somebody's checkout of the original Self-Forcing code family.

Axes: B samples, F latent frames, C latent channels, L = F x T tokens, H heads, D channels a head.

Those pipelines hold `pipeline.generator.model.blocks[i].self_attn` and hand dictionaries of cached
keys and values through every call. `attach_pipeline` lets the self-attentions go through this
project's cache instead, keeps the pipeline from allocating dictionaries that nobody reads, and
puts everything back on exit:

    with attach_pipeline(pipeline, TetherCache()):
        video = pipeline.inference(noise, prompts)

The pipeline's loop cannot declare its passes, so they are counted: a chunk has as many denoising
passes as `pipeline.denoising_step_list` has steps, then one context pass. A chunk whose first call
is at timestep 0 is one of a clean prefix and has the context pass alone. A call at frame 0 begins
the next video, also after one that was interrupted in its first chunk: there the noise does not
fall from one call to the next, or falls to 0 too early. A call counts when it has come to its end;
after one that failed, the video has to begin again. Nothing of those packages is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tethercache.arguments import whole_number
from tethercache.backbones.patching import override
from tethercache.cache import Bank, Pass, PassKind, Policy, Rope
from tethercache.cache.attention import attend
from tethercache.errors import SessionError
from tethercache.policies import as_policy


@dataclass
class _Video:
    """The video in progress: what is committed, and the chunk that is open."""

    layers: list[Bank]
    committed: int = 0
    start: int = -1
    frames: int = 0
    calls: int = 0
    level: float = 0.0  # timestep of the latest call
    first_level: float = 0.0  # of the very first call
    done: bool = True
    busy: bool = False  # inside a call, or that call has failed
    rope: Rope | None = None
    current: Pass | None = None


class PipelineSession:
    """The state of an attached pipeline. Made by `attach_pipeline`."""

    def __init__(self, pipeline: Any, policy: Policy, chunk_size: int | None) -> None:
        self.policy = policy
        self._chunk_size = chunk_size
        self._steps = len(pipeline.denoising_step_list)
        self._patch = tuple(pipeline.generator.model.patch_size)
        self._blocks = len(pipeline.generator.model.blocks)
        self._video = self._new_video()

    def caches(self) -> list[Bank]:
        """The layer caches of the video in progress, first block first."""
        return self._video.layers

    @property
    def committed(self) -> int:
        """The number of latent frames that are committed."""
        return self._video.committed

    def begin_call(self, latents: Tensor, timestep: Tensor, start: int, head_dim: int) -> None:
        """Find out what a call of the generator is for.

        Args:
            latents: `[B, F, C, h, w]`.
            timestep: of every frame, `[B, F]`.
            start: first token of the chunk, counted from the start of the video.
            head_dim: D.

        Raises:
            SessionError: if the call does not follow from the ones before.
            ValueError: if the policy cannot serve the chunk.
        """
        frames, height, width = latents.shape[1], *latents.shape[-2:]
        rows, columns = height // self._patch[1], width // self._patch[2]
        first_frame = start // (rows * columns)
        video = self._video
        level = float(timestep.max())
        is_prefix = level == 0 and video.calls < self._steps
        again = first_frame == 0 and (level >= video.level or is_prefix)
        if video.busy:
            again = first_frame == 0 and (level >= video.first_level or level == 0)
            if not again:
                raise SessionError(
                    "an earlier call failed half-way, so the cache is not whole; begin the video "
                    "again at frame 0"
                )
        if video.start != first_frame or video.done or again:  # another chunk
            video = self._open_chunk(first_frame, frames, level)
        elif frames != video.frames:
            raise SessionError(f"a chunk of {video.frames} frames was called with {frames}")
        elif level >= video.level:
            raise SessionError(
                f"a call at timestep {level:g} after one at {video.level:g}: no pass can be "
                "made again; begin the video again at frame 0"
            )
        if video.rope is None:
            video.rope = Rope(head_dim, rows, columns, device=latents.device)
        prefix = video.calls == 0 and level == 0
        commits = prefix or video.calls == self._steps
        kind = PassKind.CONTEXT if commits else PassKind.DENOISING
        video.current = Pass(kind, video.calls, self._steps)
        video.frames = frames
        video.level = level
        video.busy = True
        self._video = video

    def _open_chunk(self, start: int, frames: int, level: float) -> _Video:
        """The video in which the chunk at latent frame `start` begins: a new one at frame 0."""
        video = self._video
        if start == 0:
            video = self._new_video()
            video.first_level = level
        elif start != video.committed:
            raise SessionError(
                f"a call at latent frame {start}, but {video.committed} are committed; "
                "begin the video again at frame 0"
            )
        self.policy.check_chunk(video.committed, frames)
        if video.committed and self._chunk_size is not None and frames > self._chunk_size:
            raise ValueError(
                f"a chunk of {frames} is larger than the `chunk_size` ({self._chunk_size})"
            )
        video.start, video.calls, video.done = start, 0, False
        return video

    def finish_call(self) -> None:
        """The generator has come to the end of the call."""
        video = self._video
        assert video.current is not None
        video.busy = False
        video.calls += 1
        if video.current.commits:
            video.done = True
            video.committed += video.frames
        video.current = None

    def self_attention(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the cache of `layer`; all `[B, L, H, D]`, unrotated."""
        video = self._video
        if video.current is None or video.rope is None:
            raise SessionError("the model was called without its generator")
        return attend(
            video.layers[layer],
            self.policy,
            video.current,
            query,
            key,
            value,
            frames=video.frames,
            rope=video.rope,
        )

    def _new_video(self) -> _Video:
        hidden = self.policy.reserve(self._chunk_size)
        shared: dict[str, Tensor] = {}
        return _Video([Bank(self.policy.budget, hidden, i, shared) for i in range(self._blocks)])


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
    head_dim = blocks[0].self_attn.head_dim

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def given(name: str, place: int) -> Any:
            return kwargs[name] if name in kwargs else args[place]

        latents, timestep = given("noisy_image_or_video", 0), given("timestep", 2)
        session.begin_call(latents, timestep, int(given("current_start", 5) or 0), head_dim)

    def after(*_: Any) -> None:
        session.finish_call()

    with ExitStack() as undo:
        _attached.add(place)
        undo.callback(_attached.remove, place)
        undo.callback(pipeline.generator.register_forward_pre_hook(before, with_kwargs=True).remove)
        undo.callback(pipeline.generator.register_forward_hook(after).remove)
        for layer, block in enumerate(blocks):
            override(undo, block.self_attn, "forward", _forward(session, layer, block.self_attn))
        if hasattr(pipeline, "kv_cache1"):
            override(undo, pipeline, "kv_cache1", _empty_caches(len(blocks)))
        if hasattr(pipeline, "_initialize_kv_cache"):

            def initialise(*args: Any, **kwargs: Any) -> None:
                pipeline.kv_cache1 = _empty_caches(len(blocks))

            override(undo, pipeline, "_initialize_kv_cache", initialise)
        yield session


def _forward(session: PipelineSession, layer: int, attention: Any) -> Callable[..., Tensor]:
    """What stands in for the `forward` of one self-attention; further arguments are not read."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        query, key, value = (
            tensor.unflatten(-1, (attention.num_heads, attention.head_dim))
            for tensor in (
                attention.norm_q(attention.q(x)),
                attention.norm_k(attention.k(x)),
                attention.v(x),
            )
        )
        output: Tensor = attention.o(
            session.self_attention(layer, query, key, value.type_as(query)).flatten(2)
        )
        return output

    return forward


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
