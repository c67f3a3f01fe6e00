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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import (
    ChronoEditTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from diffusers.models.attention_dispatch import AttentionBackendName

from tethercache.alignment import align
from tethercache.arguments import whole_number
from tethercache.backbones.parallel import check_parallel
from tethercache.backbones.wan import Wan
from tethercache.cache import Policy
from tethercache.policies import as_policy
from tethercache.session import Session

SERVED = (WanTransformer3DModel, SkyReelsV2Transformer3DModel, ChronoEditTransformer3DModel)
"""Wan and what has its blocks: each call is a chunk, and all it knows of others is remembered."""


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
        transformer: an unmodified text-to-video model (Wan, or SkyReels-V2 and ChronoEdit, which
            have its blocks), or what `torch.compile` or PEFT has made of one; on exit from the last
            session it is exactly what it was, but that weights on a CPU that were mapped from a
            file lie in memory, see `alignment`.
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
        ValueError: if the model is none of these, takes image embeddings or patches time, which
            causal chunks do not, or an argument is not what it has to be.
    """
    if isinstance(policy, Session):
        session = policy
        if session.backbone.place != id(_plain(transformer)):
            raise ValueError("`policy` is a session of another transformer than this one")
    else:
        session = new_session(
            transformer,
            policy,
            chunk_size=chunk_size,
            keep_rotated=keep_rotated,
            attention=attention,
            compile_blocks=compile_blocks,
        )
    with session.attached():
        yield session


def new_session(
    transformer: WanTransformer3DModel,
    policy: Policy | str,
    *,
    chunk_size: int | None = None,
    keep_rotated: bool = True,
    attention: str | None = None,
    compile_blocks: bool = False,
) -> Session:
    """A session for a Wan transformer that is not attached yet; arguments as of `attach`."""
    transformer = _plain(transformer)
    if chunk_size is not None:
        whole_number("chunk_size", chunk_size, least=1)
    config = transformer.config
    if config.image_dim is not None or config.added_kv_proj_dim is not None:
        raise ValueError("image-to-video transformers with image cross-attention are not supported")
    if config.patch_size[0] != 1:
        raise ValueError(f"the temporal patch size must be 1, not {config.patch_size[0]}")
    check_parallel(transformer)
    align(transformer)
    return Session(
        Wan(transformer),
        as_policy(policy),
        chunk_size=chunk_size,
        keep_rotated=keep_rotated,
        backend=attention and AttentionBackendName(attention),
        compiled=compile_blocks,
    )


def _plain(transformer: Any) -> WanTransformer3DModel:
    """The model itself, of what `torch.compile` or PEFT may have made of it.

    Raises:
        ValueError: if it is none that a session can follow.
    """
    plain = getattr(transformer, "_orig_mod", transformer)
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
    if isinstance(plain, SERVED):
        return plain
    if isinstance(plain, WanVACETransformer3DModel):
        raise ValueError(
            "`transformer` is a VACE model, whose control branch has attention of its own that "
            "would see no history; its text-to-video part alone can be attached"
        )
    inside = getattr(plain, "transformer", None)
    hint = "; pass its `transformer`" if isinstance(inside, SERVED) else ""
    raise ValueError(
        "`transformer` must be diffusers' WanTransformer3DModel, or one with its blocks "
        f"(SkyReels-V2, ChronoEdit), not {type(plain).__name__}{hint}"
    )
