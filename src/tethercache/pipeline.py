"""Prompt in, long video out: encode, roll out, decode.

    pipe = CausalVideoPipeline.from_pretrained("tiny")
    video = pipe("a red ball rolling over grass", num_seconds=60).frames[0]
    for chunk in pipe.stream("a red ball rolling over grass", num_seconds=600):
        ...  # uint8 frames [B, F, H, W, 3], constant memory

The call is the stream, collected. Axes: latents `[B, C, F, h, w]`, frames `[B, F, H, W, 3]`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanTransformer3DModel
from diffusers.schedulers import FlowMatchLCMScheduler
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tethercache.alignment import align
from tethercache.arguments import flag, instance, one_of
from tethercache.backbones import new_session
from tethercache.cache import Policy
from tethercache.conditioning import check_tokenizer, encode_prompts, warn_of_unread
from tethercache.errors import NotFiniteError
from tethercache.fit.execution import Execution, dispatched, overlap_choices, require_compiler
from tethercache.foreign import reading
from tethercache.inputs import Inputs, check_inputs
from tethercache.models import Parts, Settings, fetch, find
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.models.components import adapters, components, warn_of_strange
from tethercache.rollout import Rollout, Steps
from tethercache.script import Change
from tethercache.video import Decoder, PreviewDecoder, StreamingDecoder, TileSize, decoded, first


@dataclass
class CausalVideoOutput(BaseOutput):
    """Result of a pipeline call.

    Attributes:
        frames: `[B, F, H, W, 3]` in [0, 1] for `np`, `[B, F, 3, H, W]` for `pt`, lists of images
            for `pil`, clean latents `[B, C, F, h, w]` for `latent`.
    """

    frames: Any


class CausalVideoPipeline(DiffusionPipeline):
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
            context_noise=context_noise,
            max_sequence_length=max_sequence_length,
        )
        self.video_processor = VideoProcessor(vae_scale_factor=vae.config.scale_factor_spatial)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):  # all models come by here, from whatever files
            align(value)
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | Parts,
        *,
        weights_dir: str | Path | None = None,
        loras: Sequence[tuple[str | Path, float]] = (),
        **kwargs: Any,
    ) -> Any:
        """Load a model.

        Args:
            pretrained_model_name_or_path: a shipped model (`tiny`), a preset (`self-forcing`), a
                local folder or checkpoint, a hub id, or what `models.fetch` returned.
            weights_dir: take what is on the hub from this folder instead.
            loras: files of LoRA adapters and their scales, merged in this order.
            **kwargs: those of `DiffusionPipeline.from_pretrained`, such as `torch_dtype`.

        Raises:
            MissingModelError: if a path holds no model, or a file cannot be had.
            TetherCacheError: if its files cannot be read, or are not those of such a model.
            ValueError: if an argument is not what it has to be.
        """
        parts = pretrained_model_name_or_path
        if not isinstance(parts, Parts):
            parts = fetch(find(str(parts)), Path(weights_dir) if weights_dir else None)
        merged = adapters(parts, loras)
        made = components(parts, kwargs)
        with reading(f"`{parts.pipeline}`"):
            # nothing but tensors is unpickled, not even by others
            pipe = super().from_pretrained(
                str(parts.pipeline), **(made | {"use_safetensors": True} | kwargs)
            )
        for adapter, scale in merged:
            merge_lora(pipe.transformer, adapter, scale)
        pipe._check_parts(parts.pipeline)
        return pipe

    def _check_parts(self, where: Path) -> None:
        """Check what only the loaded parts tell, and warn of weights that are no numbers."""
        if self.tokenizer is not None and self.text_encoder is not None:
            vocabulary = self.text_encoder.config.vocab_size
            check_tokenizer(self.tokenizer, self.config.max_sequence_length, vocabulary, where)
        with reading(f"the scheduler of {where}"):
            Steps.from_scheduler(self.scheduler, list(self.settings.sigmas))
        for name in ("transformer", "vae", "text_encoder"):
            warn_of_strange(name, getattr(self, name))

    @property
    def settings(self) -> Settings:
        """How the model was trained to be used."""
        return Settings.of(dict(self.config))

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """Text embeddings `[B, L_text, C_text]`, one prompt a sample.

        Warns of words that the model does not know, and of what a prompt has beyond its length.

        Raises:
            NotFiniteError: if the text encoder makes NaN or infinity.
        """
        length = self.config.max_sequence_length
        warn_of_unread(self.tokenizer, prompts, length=length)
        embeds = encode_prompts(self.tokenizer, self.text_encoder, prompts, length=length)
        embeds = embeds.to(self._execution_device, self.transformer.dtype)
        NotFiniteError.check("text encoder", "prompt", embeds, axis=0)
        return embeds

    def rollout(
        self,
        prompt: str | Sequence[str],
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
            prompt: one prompt, or one a sample. It is encoded at the call.
            keep_rotated: see `stream`.
            execution: see `stream`.
            **request: length, policy, seed, samples, prefix, changes and embeddings, as in
                `stream`.

        Raises:
            ValueError: see `check_inputs`.
            MissingToolError: if code is to be compiled and no compiler is there.
        """
        inputs = self.check_inputs(prompt, **request)
        return self._rollout(inputs, flag("keep_rotated", keep_rotated), Execution.given(execution))

    @torch.no_grad()
    def _rollout(self, inputs: Inputs, keep_rotated: bool, execution: Execution) -> Rollout:
        if execution.compile:
            require_compiler(self._execution_device)
        embeds = inputs.prompt_embeds
        if embeds is None:
            embeds = self.encode_prompt(inputs.prompts)
        embeds = embeds.to(self._execution_device, self.transformer.dtype)
        config = self.config
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
            latent_size=self.latent_size,
            context_noise=config.context_noise,
            prefix=inputs.prefix_latents,
            actions=inputs.actions(self.encode_prompt),
        )

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a latent frame."""
        scale = self.vae.config.scale_factor_spatial
        return self.config.height // scale, self.config.width // scale

    def decoder(
        self, *, tile: TileSize | None = None, execution: Execution | None = None
    ) -> StreamingDecoder | PreviewDecoder:
        """A decoder for one stream of latents."""
        execution = execution or Execution()
        decoder = StreamingDecoder(self.vae, tile=tile, compiled=execution.compile)
        return decoder if execution.decoder == "vae" else PreviewDecoder(decoder)

    def _overlaps(self, execution: Execution) -> bool:
        first, *others = overlap_choices(execution, self._execution_device)
        # models that take turns on the device must not run at the same time
        take_turns = any(hasattr(model, "_hf_hook") for model in (self.transformer, self.vae))
        return first and not (others and take_turns)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        num_seconds: float | None = None,
        num_latent_frames: int | None = None,
        policy: Policy | str | None = None,
        seed: int = 0,
        samples: Sequence[int] | None = None,
        prefix_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        then: Sequence[Change] = (),
        then_embeds: Mapping[str, Tensor] | None = None,
        tile: TileSize | None = None,
        keep_rotated: bool = True,
        latents: bool = False,
        execution: Execution | None = None,
    ) -> Generator[Tensor, None, None]:
        """Generate and yield chunk by chunk; memory does not grow with the length.

        Arguments are checked at the call, before anything is computed.

        Args:
            prompt: one prompt, or one a sample.
            num_seconds: length in seconds.
            num_latent_frames: length in latent frames instead.
            policy: what the model remembers, or its spec, such as `sink:window=12`; default
                `tethercache`.
            seed: of the counter-based noise, from -2 ** 63 to 2 ** 64 - 1.
            samples: sample number of each prompt (part of the noise's name), 0 or more; default
                0, 1, ...
            prefix_latents: clean, normalised latents `[B, C, F, h, w]` that the video starts with.
            prompt_embeds: what `encode_prompt` made of the prompts, so that the text encoder need
                not be there any more. They are converted to the transformer's dtype and device.
            then: what changes over time, see `script.Change`; one text serves all samples.
            then_embeds: what `encode_prompt` made of the texts in it, `[1, L, C_text]` each.
            tile: decode in spatial tiles of this size.
            keep_rotated: see `attach`; False saves a third of the cache's memory.
            latents: yield clean latents `[B, C, F, h, w]` and do not decode.
            execution: how it is computed: attention backend, compiled code, overlap, preview.

        Returns:
            A generator of uint8 frames `[B, F, H, W, 3]` on the CPU, or of latents. All together
            are exactly the length asked for; of a length in seconds, that is the fewest latent
            frames which cover it.

        Raises:
            ValueError: see `check_inputs`.
            MissingToolError: if code is to be compiled and no compiler is there.
            NotFiniteError: later, if a model makes NaN or infinity.
        """
        execution = Execution.given(execution)
        inputs = self.check_inputs(
            prompt,
            policy=policy,
            num_seconds=num_seconds,
            num_latent_frames=num_latent_frames,
            seed=seed,
            samples=samples,
            prefix_latents=prefix_latents,
            prompt_embeds=prompt_embeds,
            then=then,
            then_embeds=then_embeds,
        )
        flag("keep_rotated", keep_rotated)
        if tile is not None:
            instance("tile", tile, TileSize, "a `TileSize`")
        decoder = None if flag("latents", latents) else self.decoder(tile=tile, execution=execution)
        if execution.compile:
            require_compiler(self._execution_device)
        return self._generate(inputs, decoder, keep_rotated, execution)

    @torch.no_grad()
    def _generate(
        self,
        inputs: Inputs,
        decoder: StreamingDecoder | PreviewDecoder | None,
        keep_rotated: bool,
        execution: Execution,
    ) -> Generator[Tensor, None, None]:
        """Frames of the decoder, or latents without one, cut to the length."""
        rollout = self._rollout(inputs, keep_rotated, execution)
        if decoder is None:
            yield from first(inputs.plan.chunks.num_latent_frames, rollout.rest(), axis=2)
        else:
            yield from self.frames(rollout.rest(), decoder, inputs.plan.num_frames, execution)

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

    def check_inputs(self, prompt: str | Sequence[str], **given: Any) -> Inputs:
        """Check everything that a caller may get wrong; see `inputs.check_inputs`."""
        return check_inputs(self, prompt, **given)

    def __call__(
        self, prompt: str | Sequence[str], *, output_type: str = "np", **options: Any
    ) -> CausalVideoOutput:
        """Generate whole videos; for long ones prefer `stream`, which does not collect frames.

        Args:
            prompt: one prompt, or one a sample.
            output_type: `np`, `pt`, `pil` or `latent`, as in diffusers.
            **options: those of `stream`.

        Returns:
            `CausalVideoOutput` with `frames`.
        """
        one_of("output_type", output_type, ("np", "pt", "pil", "latent"))
        if output_type == "latent":
            return CausalVideoOutput(
                torch.cat(list(self.stream(prompt, latents=True, **options)), 2)
            )
        frames = torch.cat(list(self.progress_bar(self.stream(prompt, **options))), dim=1)
        scaled = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return CausalVideoOutput(self.video_processor.postprocess_video(scaled, output_type))
