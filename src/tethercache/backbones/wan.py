"""Causal attention for diffusers' `WanTransformer3DModel`, without changing the model.

Axes: B samples, C latent channels, F latent frames, L = F x T tokens, H heads, D channels a head.

`attach` swaps the attention processors of every block for ones that go through a cache, and puts
the old ones back on exit. In between, every model call happens inside a declared chunk and pass:

    with attach(transformer, TetherCache()) as session:
        with session.chunk(3):
            for t in timesteps:
                with session.denoising_pass():
                    flow = transformer(x, t, prompt_embeds).sample
                ...
            with session.context_pass():
                transformer(x0, zero, prompt_embeds)

A session holds one stream of video, or several that share the model: `session.stream("negative")`
selects another one (the second half of classifier-free guidance, say), with state of its own.

Any number of sessions may be attached to one model, in any order and in several threads. What
stands in the model is the same for all of them and is there while one is attached; a call goes to
the session whose pass is open where the call is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models import WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from tethercache.alignment import align
from tethercache.arguments import whole_number
from tethercache.backbones import opaque
from tethercache.backbones.patching import Patches, override
from tethercache.backbones.processors import (
    Compute,
    SelfAttention,
    TextAttention,
    if_compiled,
    once_per_prompt,
    unless_discarded,
)
from tethercache.cache import Policy, Rope
from tethercache.cache.call import finish_call
from tethercache.policies import as_policy
from tethercache.session import Session, session_of


@dataclass(frozen=True)
class _Wan:
    """What a session has to know of a transformer, see `session.Backbone`."""

    transformer: WanTransformer3DModel

    @property
    def place(self) -> int:
        return id(self.transformer)

    @property
    def layers(self) -> int:
        return len(self.transformer.blocks)

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        config = self.transformer.config
        _, rows, columns = config.patch_size
        return Rope(config.attention_head_dim, height // rows, width // columns, device=device)

    def can_stop_early(self) -> bool:
        return not _hooked(self.transformer)


def _hooked(transformer: WanTransformer3DModel) -> bool:
    """Whether what is behind the last commit carries hooks of accelerate or diffusers.

    Some of them fetch the weights of the module that is due next, so none may be left out.
    """
    tail = (*transformer.blocks[-1].children(), transformer.proj_out)
    return any(
        hasattr(module, hook)
        for part in tail
        for module in part.modules()
        for hook in ("_hf_hook", "_diffusers_hook")
    )


_patches = Patches()


@contextmanager
def attach(
    transformer: WanTransformer3DModel,
    policy: Policy | Session | str,
    *,
    chunk_size: int | None = None,
    keep_rotated: bool = True,
    attention: str | None = None,
    compile_blocks: bool = False,
) -> Iterator[Session]:
    """Let `policy` decide what a Wan transformer remembers, inside a `with` block.

    To generate, work under `torch.no_grad()`: what is remembered would hold every graph otherwise.

    Any number of sessions can be attached to one transformer at the same time, also in several
    threads; each gives what it would give alone. A session can also be attached for one chunk after
    the other: `with attach(transformer, session): ...`.

    Args:
        transformer: an unmodified text-to-video model, or what `torch.compile` has made of one; on
            exit from the last session it is exactly what it was, but that weights on a CPU that
            were mapped from a file lie in memory, see `alignment`.
        policy: a cache policy, for example `TetherCache()`, or its spec. Or a session that was
            attached to this transformer before: it goes on, with the settings that it has.
        chunk_size: the largest chunk after the first, in latent frames. It sizes the reserve;
            without it they are as many as the policy could ever need.
        keep_rotated: keep readable keys a second time, as attention reads them. Without it they are
            rotated in every pass, which takes time and saves a third of the cache.
        attention: backend of diffusers' dispatcher, such as `_native_cudnn` or `flash`; None: the
            one that `transformer.set_attention_backend` chose.
        compile_blocks: let `torch.compile` make each block's own arithmetic faster. One compiled
            code serves all blocks; the cache stays outside of it. Results differ by rounding.

    Yields:
        The session, through which chunks and passes are declared.

    Raises:
        ValueError: if the model takes image embeddings or patches time, which causal chunks do not,
            or an argument is not what it has to be.
    """
    transformer = getattr(transformer, "_orig_mod", transformer)
    if chunk_size is not None:
        whole_number("chunk_size", chunk_size, least=1)
    config = transformer.config
    if config.image_dim is not None or config.added_kv_proj_dim is not None:
        raise ValueError("image-to-video transformers with image cross-attention are not supported")
    if config.patch_size[0] != 1:
        raise ValueError(f"the temporal patch size must be 1, not {config.patch_size[0]}")
    align(transformer)
    if isinstance(policy, Session):
        session = policy
        if session.backbone.place != id(transformer):
            raise ValueError("`policy` is a session of another transformer than this one")
    else:
        session = Session(
            _Wan(transformer),
            as_policy(policy),
            chunk_size=chunk_size,
            keep_rotated=keep_rotated,
            backend=attention and AttentionBackendName(attention),
            compiled=compile_blocks,
        )
    stand_ins = (_install, _install_compiled) if session.compiled else (_install,)
    with _patches.used(transformer, *stand_ins):
        yield session


def _install(transformer: WanTransformer3DModel, undo: ExitStack) -> None:
    """Put the stand-ins into a transformer."""
    place = id(transformer)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        latents = args[0] if args else kwargs["hidden_states"]
        prompt = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        if not torch.compiler.is_compiling():
            session_of(place).begin_call(latents, prompt)
            return None
        latents = opaque.begin(latents, prompt, place)
        if args:
            return (latents, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": latents}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not torch.compiler.is_compiling():
            finish_call()
            return None
        flow = opaque.finish(output[0])
        return (flow,) if isinstance(output, tuple) else type(output)(sample=flow)

    undo.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
    undo.callback(transformer.register_forward_hook(after).remove)
    for layer, block in enumerate(transformer.blocks):
        for at, kind in ((block.attn1, SelfAttention), (block.attn2, TextAttention)):
            override(undo, at, "processor", kind(layer, at.processor))
    head = transformer.proj_out
    _override_call(undo, transformer.condition_embedder.text_embedder, once_per_prompt)
    _override_call(undo, transformer.blocks[-1].ffn, unless_discarded)
    _override_call(undo, head, partial(unless_discarded, channels=head.out_features))


def _install_compiled(transformer: WanTransformer3DModel, undo: ExitStack) -> None:
    """Compile the blocks for the sessions that ask for it."""
    for block in transformer.blocks:
        compute = _compute(block)
        override(undo, block, "_compiled_call_impl", None)
        # chunks come in one or two sizes, each worth code of its own
        block.compile(dynamic=False)
        block._compiled_call_impl = if_compiled(compute, block._compiled_call_impl)


def _override_call(
    undo: ExitStack, module: nn.Module, stand_in: Callable[[Compute], Compute]
) -> None:
    """Let a module be called through a stand-in; its name and its hooks stay what they are."""
    override(undo, module, "_compiled_call_impl", stand_in(_compute(module)))


def _compute(module: nn.Module) -> Compute:
    """How a module is called, by code that the user has compiled if there is such."""
    return module._compiled_call_impl or module._call_impl


@contextmanager
def float64_sinusoid(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Compute the sinusoid of the timestep in float64, as the official code does.

    diffusers uses float32, which differs by up to 4.1e-5 (`docs/reference.md`, section 11). Use
    this where outputs are compared with the official ones.
    """
    half = transformer.config.freq_dim // 2

    def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        exponents = torch.arange(half, dtype=torch.float64, device=output.device) / half
        angles = args[0].double()[:, None] * torch.exp(-math.log(10000) * exponents)
        return torch.cat((angles.cos(), angles.sin()), dim=1).to(output.dtype)

    hook = transformer.condition_embedder.timesteps_proj.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
