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
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models import WanTransformer3DModel
from torch import Tensor, nn

from tethercache.alignment import align
from tethercache.arguments import whole_number
from tethercache.backbones.processors import (
    OncePerPrompt,
    OutsideSelfAttention,
    OutsideTextAttention,
    SelfAttention,
    TextAttention,
    UnlessDiscarded,
)
from tethercache.cache import LayerCache, Pass, PassKind, Policy, Rope
from tethercache.cache.attention import attend, remember
from tethercache.policies import as_policy

DEFAULT_STREAM = "main"


class SessionError(RuntimeError):
    """The model was called where the session does not expect it."""


@dataclass
class _Stream:
    """Everything that belongs to one video (or one batch of videos) in progress."""

    layers: list[LayerCache]
    text: list[tuple[Tensor, Tensor] | None]
    prompt: Tensor | None = None
    prompt_version: int = 0
    projected_text: Tensor | None = None
    shape: tuple[int, ...] | None = None
    rope: Rope | None = None
    committed: int = 0
    passes: list[PassKind] = field(default_factory=list)
    called: bool = False


class Session:
    """The state of an attached transformer. Made by `attach`; see the module docstring."""

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        policy: Policy,
        chunk_size: int | None,
        keep_rotated: bool,
    ) -> None:
        self.policy = policy
        self._transformer = transformer
        self._chunk_size = chunk_size
        self._keep_rotated = keep_rotated
        self._streams: dict[str, _Stream] = {}
        self._selected = DEFAULT_STREAM
        self._frames = 0
        self._pass: PassKind | None = None
        self._broken = False
        self.discarding = False
        """Whether nothing behind the last block's commit is needed of the pass that is open."""

    def caches(self, stream: str = DEFAULT_STREAM) -> list[LayerCache]:
        """The layer caches of a stream, first block first."""
        return self._stream(stream).layers

    def committed(self, stream: str = DEFAULT_STREAM) -> int:
        """The number of latent frames that the context passes of a stream have committed."""
        return self._stream(stream).committed

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Send the model calls inside to another stream, which has its own cache and prompt."""
        previous, self._selected = self._selected, name
        try:
            yield
        finally:
            self._selected = previous

    @contextmanager
    def chunk(self, frames: int) -> Iterator[None]:
        """Declare the next chunk of `frames` latent frames.

        Raises:
            ValueError: if the policy cannot serve a chunk of this size at this place.
            SessionError: if a chunk is open already, or if this one ends without its context pass.
        """
        if self._frames:
            raise SessionError("a chunk is open already; finish it before the next one")
        if self._broken:
            raise SessionError(
                "an earlier chunk failed half-way, so the cache is not whole; attach again"
            )
        if frames < 1:
            raise ValueError(f"a chunk must have at least 1 latent frame, not {frames}")
        for committed in {stream.committed for stream in self._streams.values()} or {0}:
            self.policy.check_chunk(committed, frames)
            if committed and self._chunk_size is not None and frames > self._chunk_size:
                raise ValueError(
                    f"a chunk of {frames} is larger than the `chunk_size` ({self._chunk_size}) "
                    "that was given to `attach`"
                )
        for stream in self._streams.values():
            stream.passes = []
        self._frames, self._broken = frames, True
        try:
            yield
            self._close_chunk(frames)
            self._broken = False
        finally:
            self._frames = 0

    @contextmanager
    def denoising_pass(self) -> Iterator[None]:
        """Declare one denoising step: one model call, one a stream where there are several."""
        with self._declared(PassKind.DENOISING):
            yield

    @contextmanager
    def context_pass(self, *, output: bool = True) -> Iterator[None]:
        """Declare the pass on clean latents that commits the chunk.

        Args:
            output: whether the model's output is needed. If not, the last block stops after its
                commit, which changes nothing in any cache, and the output may be NaN. (Models whose
                layers carry offload hooks of their own are run whole: such hooks expect it.)
        """
        with self._declared(PassKind.CONTEXT):
            self.discarding = not output and not _hooked(self._transformer)
            try:
                yield
            finally:
                self.discarding = False

    @contextmanager
    def _declared(self, kind: PassKind) -> Iterator[None]:
        if not self._frames:
            raise SessionError(f"a {kind.value} pass needs an open chunk: `with session.chunk(n):`")
        if self._pass is not None:
            raise SessionError(f"a {self._pass.value} pass is open already")
        for stream in self._streams.values():
            stream.called = False
        self._pass = kind
        try:
            yield
            if not any(stream.called for stream in self._streams.values()):
                raise SessionError(f"the {kind.value} pass ended without a model call")
        finally:
            self._pass = None

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            blocks = len(self._transformer.blocks)
            staging = self.policy.staging(self._chunk_size)
            self._streams[name] = _Stream(
                layers=[
                    LayerCache(self.policy.budget, staging, i, keep_rotated=self._keep_rotated)
                    for i in range(blocks)
                ],
                text=[None] * blocks,
            )
        return self._streams[name]

    def _close_chunk(self, frames: int) -> None:
        used = {name: stream for name, stream in self._streams.items() if stream.passes}
        if not used:
            raise SessionError("the chunk ended without a pass")
        for name, stream in used.items():
            if stream.passes[-1] is not PassKind.CONTEXT:
                raise SessionError(f"the chunk of stream {name!r} ended without a context pass")
            stream.committed += frames

    # What the hook and the processors use -------------------------------------------------

    def begin_call(self, latents: Tensor, prompt_embeds: Tensor) -> None:
        """Check one model call against what was declared; `latents` `[B, C, F, h, w]`."""
        if self._pass is None:
            raise SessionError(
                "the attached transformer was called outside a pass; use `with session.chunk(n):` "
                "and in it `session.denoising_pass()` or `session.context_pass()`"
            )
        stream = self._stream(self._selected)
        if stream.called:
            raise SessionError(f"a second call in one {self._pass.value} pass of one stream")
        if PassKind.CONTEXT in stream.passes:
            raise SessionError("the chunk is committed already; open the next one")
        batch, channels, frames, height, width = latents.shape
        if frames != self._frames:
            raise ValueError(f"the chunk was declared with {self._frames} frames, got {frames}")
        shape = (batch, channels, height, width)
        if stream.shape not in (None, shape):
            raise ValueError(f"[B, C, h, w] of a stream cannot change: {stream.shape} to {shape}")
        if stream.rope is None:
            stream.shape, stream.rope = shape, self._rope(height, width, latents.device)
        version = _version(prompt_embeds)
        if prompt_embeds is not stream.prompt or version != stream.prompt_version:
            stream.prompt, stream.prompt_version = prompt_embeds, version
            stream.projected_text = None
            stream.text = [None] * len(stream.text)
        stream.passes.append(self._pass)
        stream.called = True

    def self_attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, backend: str | None
    ) -> Tensor | None:
        """Write to the cache of `layer` and attend to it; all `[B, L, H, D]`, unrotated.

        Returns:
            The attention output, or None if it is not needed.
        """
        stream = self._stream(self._selected)
        assert stream.rope is not None
        pass_ = Pass(stream.passes[-1], len(stream.passes) - 1, first=len(stream.passes) == 1)
        chunk = (stream.layers[layer], self.policy, pass_, query, key, value)
        if self.discards(layer):
            remember(*chunk, frames=self._frames, rope=stream.rope)
            return None
        return attend(*chunk, frames=self._frames, rope=stream.rope, backend=backend)

    def discards(self, layer: int) -> bool:
        """Whether the attention of `layer` has nothing more to do in this pass than to commit."""
        return self.discarding and layer == len(self._transformer.blocks) - 1

    @property
    def text(self) -> list[tuple[Tensor, Tensor] | None]:
        """Keys and values `[B, L_text, H, D]` of the current prompt by layer, None if unknown."""
        return self._stream(self._selected).text

    def projected_text(self, embedder: nn.Module, prompt_embeds: Tensor) -> Tensor:
        """The text MLP's output for the current prompt, computed once a prompt."""
        stream = self._stream(self._selected)
        if stream.projected_text is None:
            stream.projected_text = embedder(prompt_embeds)
        return stream.projected_text

    def _rope(self, height: int, width: int, device: torch.device) -> Rope:
        config = self._transformer.config
        _, rows, columns = config.patch_size
        return Rope(config.attention_head_dim, height // rows, width // columns, device=device)


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


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place, where torch counts that."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return 0
    return tensor._version


@contextmanager
def attach(
    transformer: WanTransformer3DModel,
    policy: Policy | str,
    *,
    chunk_size: int | None = None,
    keep_rotated: bool = True,
    attention: str | None = None,
    compile_blocks: bool = False,
) -> Iterator[Session]:
    """Let `policy` decide what a Wan transformer remembers, inside a `with` block.

    To generate, work under `torch.no_grad()`: what is remembered would hold every graph otherwise.

    Args:
        transformer: an unmodified text-to-video model; on exit it is exactly what it was, but that
            weights on a CPU that were mapped from a file lie in memory, see `alignment`.
        policy: a cache policy, for example `TetherCache()`, or its spec.
        chunk_size: the largest chunk after the first, in latent frames. It sizes the staging slots;
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
    policy = as_policy(policy)
    if chunk_size is not None:
        whole_number("chunk_size", chunk_size, least=1)
    config = transformer.config
    if config.image_dim is not None or config.added_kv_proj_dim is not None:
        raise ValueError("image-to-video transformers with image cross-attention are not supported")
    if config.patch_size[0] != 1:
        raise ValueError(f"the temporal patch size must be 1, not {config.patch_size[0]}")
    align(transformer)
    session = Session(transformer, policy, chunk_size, keep_rotated)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs["hidden_states"]
        prompt = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        session.begin_call(latents, prompt)

    with ExitStack() as undo:
        undo.callback(transformer.register_forward_pre_hook(before, with_kwargs=True).remove)
        embedder = transformer.condition_embedder
        last, head = transformer.blocks[-1], transformer.proj_out
        for owner, name, stand_in in (
            (embedder, "text_embedder", OncePerPrompt(session, embedder.text_embedder)),
            (last, "ffn", UnlessDiscarded(session, last.ffn)),
            (transformer, "proj_out", UnlessDiscarded(session, head, head.out_features)),
        ):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, stand_in)
        for layer, block in enumerate(transformer.blocks):
            outside = compile_blocks or block._compiled_call_impl is not None
            for at, kind in (
                (block.attn1, OutsideSelfAttention if outside else SelfAttention),
                (block.attn2, OutsideTextAttention if outside else TextAttention),
            ):
                undo.callback(setattr, at, "processor", at.processor)
                at.processor = kind(session, layer, at.processor, attention)
            if compile_blocks:
                undo.callback(setattr, block, "_compiled_call_impl", block._compiled_call_impl)
                # chunks come in one or two sizes, each worth code of its own
                block.compile(dynamic=False)
        yield session


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
