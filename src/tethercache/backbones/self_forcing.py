"""The same policies inside somebody's checkout of the original Self-Forcing code family.

Axes: B samples, F latent frames, C latent channels, L = F x T tokens, H heads, D channels a head.

Those pipelines hold `pipeline.generator.model.blocks[i].self_attn` and hand dictionaries of cached
keys and values through every call. `attach_pipeline` lets the self-attentions go through this
project's cache instead, keeps the pipeline from allocating dictionaries that nobody reads, and
puts everything back on exit:

    with attach_pipeline(pipeline, TetherCache()):
        video = pipeline.inference(noise, prompts)

Which pass of which chunk a call is, `pipeline_session.py` finds out. Nothing of those packages is
imported here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tethercache.arguments import whole_number
from tethercache.backbones.patching import override, put_back
from tethercache.backbones.pipeline_session import NEGATIVE, Generator, PipelineSession
from tethercache.backbones.projections import project, project_out, renamed
from tethercache.cache import Policy
from tethercache.cache.call import current_call
from tethercache.errors import SessionError
from tethercache.policies import as_policy
from tethercache.session import DEFAULT_STREAM

CACHES = ("kv_cache1", "kv_cache_pos", "kv_cache_neg")
"""Where those pipelines keep their dictionaries of keys and values."""
_TEXT_CACHES = ("crossattn_cache", "crossattn_cache_pos", "crossattn_cache_neg")
_CALL = (
    "noisy_image_or_video",
    "conditional_dict",
    "timestep",
    "kv_cache",
    "crossattn_cache",
    "current_start",
)
"""The first arguments of a call of the generator."""
_attached: set[int] = set()


@contextmanager
def attach_pipeline(
    pipeline: Any, policy: Policy | str, *, chunk_size: int | None = None
) -> Iterator[PipelineSession]:
    """Let `policy` decide what a pipeline of the original code family remembers.

    Args:
        pipeline: a causal pipeline that makes chunk after chunk: it has `generator.model.blocks`,
            each with a `self_attn`, and `denoising_step_list`, or two caches for classifier-free
            guidance. It need not have run before, and PEFT may have wrapped the model.
        policy: a cache policy, for example `TetherCache()`, or its spec.
        chunk_size: the largest chunk after the first; default the pipeline's
            `num_frame_per_block`.

    Yields:
        The session, for a look at its caches; the pipeline is used as ever.

    Raises:
        ValueError: if the pipeline has another structure or does what the cache cannot follow, or
            an argument is not what it has to be.
        SessionError: if it is attached already; its loop cannot say whose a call is.
    """
    policy = as_policy(policy)
    if chunk_size is not None:
        whole_number("chunk_size", chunk_size, least=1)
    check(pipeline)
    generator = Generator(pipeline.generator, _without_adapters(pipeline.generator.model))
    if generator.place in _attached:
        raise SessionError("the pipeline is attached already; leave that session first")
    chunk_size = chunk_size or getattr(pipeline, "num_frame_per_block", None)
    session = PipelineSession(pipeline, generator, policy, chunk_size)
    with ExitStack() as undo:
        _attached.add(generator.place)
        undo.callback(_attached.remove, generator.place)
        put_back(undo, pipeline, *CACHES, *_TEXT_CACHES)
        _install_calls(undo, pipeline, session)
        _install_caches(undo, pipeline, len(generator.model.blocks))
        _install_attention(undo, generator.model)
        yield session


def check(pipeline: Any) -> None:
    """Raise `ValueError` unless the cache can follow the loop of this pipeline."""
    blocks = getattr(getattr(getattr(pipeline, "generator", None), "model", None), "blocks", None)
    guided = hasattr(pipeline, "kv_cache_pos")
    if hasattr(pipeline, "kv_cache_clean"):
        raise ValueError(
            "`pipeline` denoises several chunks jointly (Rolling Forcing), each at another noise "
            "level; a policy needs every chunk to be clean before the next one begins"
        )
    if blocks is None or not (guided or hasattr(pipeline, "denoising_step_list")):
        raise ValueError(
            "`pipeline` must be a few-step pipeline of the Self-Forcing family, with "
            "`generator.model.blocks` and `denoising_step_list`"
        )
    if not any(hasattr(pipeline, name) for name in (*CACHES, "_initialize_kv_cache")):
        raise ValueError(
            "`pipeline` keeps no keys and values (`kv_cache1`): it makes all frames at once, so "
            "there is nothing to remember"
        )
    for name, plain in (("inference_t_scale", (None, 1)), ("multi_shot_rope_offset", (None, 0))):
        if (value := getattr(pipeline, name, None)) not in plain:
            raise ValueError(
                f"`{name}` of the pipeline is {value!r} (LongLive 2.0): it changes where in time "
                f"frames stand, which is for the policy to say; set it to {plain[1]}"
            )


def _without_adapters(model: Any) -> Any:
    """The transformer itself, if PEFT has wrapped it; its layers keep their adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _install_calls(undo: ExitStack, pipeline: Any, session: PipelineSession) -> None:
    """Let every call of the generator be declared to the session."""
    forward = pipeline.generator.forward

    def declared(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_CALL, args, strict=False)) | kwargs
        latents, start = given["noisy_image_or_video"], int(given.get("current_start") or 0)
        frame = session.frame(latents, start)
        if skipped := session.skipped(latents.shape[1], frame):
            frame, latents = frame + skipped, latents[:, skipped:]
            cut = {"noisy_image_or_video": latents, "timestep": given["timestep"][:, skipped:]}
            args, kwargs = (), given | cut
            given = kwargs
        cache = given.get("kv_cache")
        negative = cache is not None and cache is getattr(pipeline, "kv_cache_neg", None)
        with session.call(
            latents,
            given["timestep"],
            frame,
            prompt=given["conditional_dict"].get("prompt_embeds"),
            stream=NEGATIVE if negative else DEFAULT_STREAM,
        ):
            return forward(*args, **kwargs)

    override(undo, pipeline.generator, "forward", declared)
    if hasattr(pipeline, "_recache_after_switch"):
        recache = pipeline._recache_after_switch

        def recached(*args: Any, **kwargs: Any) -> Any:
            with session.recaching(keep_sink=bool(getattr(pipeline, "global_sink", False))):
                return recache(*args, **kwargs)

        override(undo, pipeline, "_recache_after_switch", recached)


def _install_caches(undo: ExitStack, pipeline: Any, blocks: int) -> None:
    """Keep the pipeline's own caches empty.

    Where there is none yet it stays so, because that is how the pipelines know that they have to
    make those of the text as well.
    """
    names = [name for name in CACHES if hasattr(pipeline, name)]

    def make(*args: Any, **kwargs: Any) -> None:
        for name in names or CACHES[:1]:
            setattr(pipeline, name, [_Empty() for _ in range(blocks)])

    if any(getattr(pipeline, name) is not None for name in names):
        make()
    if hasattr(pipeline, "_initialize_kv_cache"):
        override(undo, pipeline, "_initialize_kv_cache", make)


def _install_attention(undo: ExitStack, model: Any) -> None:
    """Let the self-attentions go through the cache, and leave out what served their own."""
    for layer, block in enumerate(model.blocks):
        override(undo, block.self_attn, "forward", _forward(layer, block.self_attn))
    if hasattr(model, "_apply_cache_updates"):
        override(undo, model, "_apply_cache_updates", _nothing)
    if hasattr(getattr(model, "args", None), "ar_start"):
        # DummyForcing and Forcing-KV sort their heads by what the caches hold in this chunk
        args = copy.copy(model.args)
        args.ar_start = -1
        override(undo, model, "args", args)


def _forward(layer: int, attention: Any) -> Callable[..., Tensor]:
    """What stands in for the `forward` of one self-attention; further arguments are not read."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attn = renamed(attention)
        query, key, value = project(attn, x)
        output = current_call().attend(layer, query, key, value.type_as(query))
        assert output is not None  # context passes are run whole
        return project_out(attn, output).as_subclass(_Output)

    return forward


class _Output(Tensor):
    """An attention's output, as itself or as the pair `(output, change of the cache)`.

    LongLive and its children take the pair apart, the others compute with what they are given.
    """

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Whatever is computed of it is a plain tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    def __iter__(self) -> Iterator[Any]:
        """The pair: the output, and that nothing changes."""
        return iter((self.as_subclass(Tensor), (0, 0, None)))


def _nothing(*args: Any, **kwargs: Any) -> None:
    return


_COUNTERS = {"global_end_index": 0, "local_end_index": 0, "pinned_start": -1, "pinned_len": 0}


class _Empty(dict[str, Any]):
    """A cache of one block with the names that the pipelines reset and move, and no memory."""

    def __init__(self) -> None:
        counters = {
            "global_end_index": 0,
            "local_end_index": 0,
            "pinned_start": -1,
            "pinned_len": 0,
        }
        super().__init__({name: torch.tensor([number]) for name, number in counters.items()})

    def __missing__(self, name: str) -> Tensor:
        return torch.empty(0, 0, 0, 0)
