"""Prompt in, long video out: encode, roll out, decode.

    pipe = CausalVideoPipeline.from_pretrained("tiny")
    video = pipe("a red ball rolling over grass", num_seconds=60).frames[0]
    for chunk in pipe.stream("a red ball rolling over grass", num_seconds=600):
        ...  # uint8 frames [B, F, H, W, 3], constant memory

The call is the stream, collected. Axes: latents `[B, C, F, h, w]`, frames `[B, F, H, W, 3]`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.schedulers import FlowMatchLCMScheduler
from diffusers.video_processor import VideoProcessor
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tethercache.alignment import align
from tethercache.arguments import flag, texts
from tethercache.backbones import new_session
from tethercache.conditioning import encode_prompts, warn_of_unread
from tethercache.errors import NotFiniteError
from tethercache.fit.execution import Execution, dispatched, overlap_choices, require_compiler
from tethercache.models import Settings
from tethercache.pipeline.adapters import Adapters
from tethercache.pipeline.calls import Calls, VideoDecoder
from tethercache.pipeline.inputs import Inputs, check_inputs
from tethercache.pipeline.saved import SavedPipeline, check_scheduler
from tethercache.pipeline.steps import StepEnd
from tethercache.pipeline.switches import Switches
from tethercache.rollout import Rollout, Steps
from tethercache.video import (
    Decoder,
    PreviewDecoder,
    SlicedDecoder,
    StreamingDecoder,
    TileSize,
    decoded,
    tiles_of,
)


class CausalVideoPipeline(Calls, Switches, Adapters, SavedPipeline):
    """Long video from a causal few-step Wan model, with a cache policy in charge of its memory.

    Args:
        tokenizer: of the text encoder.
        text_encoder: a T5-type encoder.
        transformer: a causally trained `WanTransformer3DModel`.
        vae: its `AutoencoderKLWan`.
        scheduler: supplies the few-step noise levels.
        chunk_size: latent frames denoised jointly.
        first_chunk_size: size of the first chunk; None: as the others.
        window: latent frames that the model was trained on.
        height: pixel rows.
        width: pixel columns.
        fps: frames a second.
        sigmas: noise levels of the steps before the scheduler's shift.
        first_sigmas: those of the first chunk that is made; None: as the others.
        context_noise: timestep that the context pass is told, 0..1000.
        max_sequence_length: text tokens, padding included.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        transformer: WanTransformer3DModel,
        vae: AutoencoderKLWan,
        scheduler: FlowMatchLCMScheduler,
        chunk_size: int = 3,
        first_chunk_size: int | None = None,
        window: int = 21,
        height: int = 480,
        width: int = 832,
        fps: int = 16,
        sigmas: list[float] | None = None,
        first_sigmas: list[float] | None = None,
        context_noise: float = 0.0,
        max_sequence_length: int = 512,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
        )
        self.register_to_config(
            chunk_size=chunk_size,
            first_chunk_size=first_chunk_size,
            window=window,
            height=height,
            width=width,
            fps=fps,
            sigmas=list(Settings.sigmas if sigmas is None else sigmas),
            first_sigmas=None if first_sigmas is None else list(first_sigmas),
            context_noise=context_noise,
            max_sequence_length=max_sequence_length,
        )
        self.video_processor = VideoProcessor(vae_scale_factor=vae.config.scale_factor_spatial)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "scheduler":
            check_scheduler(value)
        if isinstance(value, nn.Module):  # all models come by here, from whatever files
            align(value)
        super().__setattr__(name, value)

    def encode_prompt(self, prompt: str | Sequence[str]) -> Tensor:
        """Text embeddings `[B, L_text, C_text]`, one prompt a sample.

        Warns of words that the model does not know, and of what a prompt has beyond its length.

        Raises:
            NotFiniteError: if the text encoder makes NaN or infinity.
            ValueError: if it is no text, or an empty one.
        """
        prompts, length = texts("prompt", prompt), self.config.max_sequence_length
        warn_of_unread(self.tokenizer, prompts, length=length)
        embeds = encode_prompts(self.tokenizer, self.text_encoder, prompts, length=length)
        embeds = embeds.to(self._execution_device, self.transformer.dtype)
        NotFiniteError.check("text encoder", "prompt", embeds, axis=0)
        return embeds

    def rollout(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        keep_rotated: bool = True,
        execution: Execution | None = None,
        **request: Any,
    ) -> Rollout:
        """A video in the making, before it is decoded: `next` makes one more chunk of it.

        Its state can be saved, loaded and forked between two chunks, and its prompt switched. Whole
        chunks are made: the last one may go beyond the length asked for.

            rollout = pipe.rollout("a red ball rolling over grass", num_seconds=60)
            first = next(rollout)  # clean latents [B, C, F, h, w]
            other = rollout.fork()
            other.switch(pipe.encode_prompt(["a blue ball rolling over sand"]))

        Args:
            prompt: one prompt, or several. It is encoded at the call.
            keep_rotated: see `stream`.
            execution: see `stream`.
            **request: length, size, policy, seed, samples, prefix, changes and embeddings, as in
                `stream`.

        Raises:
            ValueError: see `check_inputs`.
            MissingToolError: if code is to be compiled and no compiler is there.
        """
        inputs = self.check_inputs(prompt, **request)
        return self.begin(inputs, flag("keep_rotated", keep_rotated), Execution.given(execution))

    @torch.no_grad()
    def begin(
        self,
        inputs: Inputs,
        keep_rotated: bool,
        execution: Execution,
        step_end: StepEnd | None = None,
    ) -> Rollout:
        """The rollout of checked inputs; see `rollout`."""
        if execution.compile:
            require_compiler(self._execution_device)
        embeds = inputs.prompt_embeds
        if embeds is None:
            embeds = self.encode_prompt(inputs.prompts)
        embeds = embeds.to(self._execution_device, self.transformer.dtype)
        embeds = embeds.repeat_interleave(inputs.videos_per_prompt, 0)
        config, first = self.config, self.config.first_sigmas
        session = new_session(
            self.transformer,
            inputs.policy,
            chunk_size=config.chunk_size,
            keep_rotated=keep_rotated,
            attention=dispatched(self.transformer, execution.attention, embeds),
            compile_blocks=execution.compile,
        )
        return Rollout(
            self.transformer,
            session,
            inputs.plan.chunks,
            Steps.from_scheduler(self.scheduler, list(config.sigmas)),
            inputs.noise,
            embeds,
            latent_size=inputs.latent_size,
            first_steps=first and Steps.from_scheduler(self.scheduler, list(first)),
            context_noise=config.context_noise,
            prefix=inputs.prefix_latents,
            actions=inputs.actions(self.encode_prompt),
            on_step_end=step_end,
        )

    def decoder(
        self, *, tile: TileSize | None = None, execution: Execution | None = None
    ) -> VideoDecoder:
        """A decoder for one stream of latents.

        Args:
            tile: decode in spatial tiles of this size; None: as `vae.enable_tiling` says.
            execution: whether it is compiled, and whether a preview is enough.
        """
        execution = execution or Execution()
        tile = tiles_of(self.vae) if tile is None else tile

        def one() -> StreamingDecoder:
            return StreamingDecoder(self.vae, tile=tile, compiled=execution.compile)

        decoder: StreamingDecoder | SlicedDecoder = one()
        if self.vae.use_slicing:
            decoder = SlicedDecoder(one, self.vae)
        return decoder if execution.decoder == "vae" else PreviewDecoder(decoder)

    def _overlaps(self, execution: Execution) -> bool:
        first, *others = overlap_choices(execution, self._execution_device)
        # models that take turns on the device must not run at the same time
        take_turns = any(hasattr(model, "_hf_hook") for model in (self.transformer, self.vae))
        return first and not (others and take_turns)

    def frames(
        self,
        chunks: Generator[Tensor, None, None],
        decoder: Decoder,
        num_frames: int,
        execution: Execution | None = None,
    ) -> Generator[Tensor, None, None]:
        """Latents, decoded: uint8 frames `[B, F, H, W, 3]` on the CPU.

        Args:
            chunks: clean latents `[B, C, F, h, w]`, such as the `rest` of a rollout.
            decoder: what `decoder` returned; it has decoded the chunks before these.
            num_frames: the most frames; what is decoded beyond is cut.
            execution: whether to decode beside denoising.
        """
        overlap = self._overlaps(execution or Execution())
        return decoded(chunks, decoder, num_frames, overlap=overlap)

    def check_inputs(self, prompt: str | Sequence[str] | None = None, **given: Any) -> Inputs:
        """Check everything that a caller may get wrong; see `inputs.check_inputs`."""
        return check_inputs(self, prompt, **given)
