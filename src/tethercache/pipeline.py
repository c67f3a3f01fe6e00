"""Prompt in, long video out: encode, roll out, decode.

    pipe = CausalVideoPipeline.from_pretrained("tiny")
    video = pipe("a red ball rolling over grass", num_seconds=60).frames[0]
    for chunk in pipe.stream("a red ball rolling over grass", num_seconds=600):
        ...  # uint8 frames [B, F, H, W, 3], constant memory

The call is the stream, collected. Axes: latents `[B, C, F, h, w]`, frames `[B, F, H, W, 3]`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanTransformer3DModel
from diffusers.schedulers import FlowMatchLCMScheduler
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tethercache.alignment import align, aligned
from tethercache.backbones import attach
from tethercache.backbones.lora import merge_lora, require_peft
from tethercache.backbones.weights import load_transformer
from tethercache.cache import Policy
from tethercache.conditioning import encode_prompts, unknown_words
from tethercache.errors import DamagedModelError, TetherCacheError
from tethercache.execution import (
    ATTENTION,
    Execution,
    choose_attention,
    overlap_choices,
    require_compiler,
)
from tethercache.models import Parts, Settings, fetch, find
from tethercache.policies.tethercache import TetherCache
from tethercache.request import VideoPlan, plan_video
from tethercache.rollout import CounterNoise, Plan, Steps, rollout
from tethercache.video import (
    PreviewDecoder,
    StreamingDecoder,
    TileSize,
    overlapped,
    to_uint8,
)

logger = logging.getLogger(__name__)

# what diffusers and transformers raise at damaged or foreign files
_UNREADABLE = (
    OSError,
    SafetensorError,
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    AttributeError,
)


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
        chunk_size: see `models.Settings`, as for all that follow.
        first_chunk_size: see there.
        window: see there.
        height: see there.
        width: see there.
        fps: see there.
        sigmas: see there.
        context_noise: see there.
        max_sequence_length: see there.
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
            sigmas=sigmas or list(Settings.sigmas),
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
        """
        parts = pretrained_model_name_or_path
        if not isinstance(parts, Parts):
            parts = fetch(find(str(parts)), Path(weights_dir) if weights_dir else None)
        source, made = str(parts.pipeline), {}
        adapters = [(parts.lora, 1.0)] if parts.lora is not None else []
        adapters += [(Path(path), scale) for path, scale in loras]
        if adapters:
            require_peft()
        if parts.transformer is not None:
            made["transformer"] = load_transformer(
                parts.transformer, dtype=kwargs.get("torch_dtype"), prefer=parts.prefer
            )
        if parts.shift is not None:
            made["scheduler"] = FlowMatchLCMScheduler(shift=parts.shift)
            made |= parts.settings.config()
        try:
            pipe = super().from_pretrained(source, **made, **kwargs)
            for adapter, scale in adapters:
                merge_lora(pipe.transformer, adapter, scale)
            return pipe
        except TetherCacheError:
            raise
        except _UNREADABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DamagedModelError(f"cannot load `{source}`: {reason}") from error

    @property
    def settings(self) -> Settings:
        """How the model was trained to be used."""
        return Settings.of(dict(self.config))

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """Text embeddings `[B, L_text, C_text]`, one prompt a sample; warns of unknown words."""
        for prompt in dict.fromkeys(prompts):
            if missing := unknown_words(self.tokenizer, prompt):
                logger.warning("the model does not know the words: %s", ", ".join(missing))
        embeds = encode_prompts(
            self.tokenizer,
            self.text_encoder,
            prompts,
            length=self.config.max_sequence_length,
        )
        return embeds.to(self._execution_device, self.transformer.dtype)

    @torch.no_grad()
    def stream_latents(
        self,
        plan: Plan,
        prompt_embeds: Tensor,
        policy: Policy,
        *,
        seed: int = 0,
        samples: list[int] | None = None,
        prefix_latents: Tensor | None = None,
        keep_rotated: bool = True,
        execution: Execution | None = None,
    ) -> Generator[Tensor, None, None]:
        """Clean latent chunks `[B, C, F, h, w]` of one batch, as they are made."""
        config, execution = self.config, execution or Execution()
        prompt_embeds = aligned(prompt_embeds)
        if execution.compile:
            require_compiler(prompt_embeds.device)
        with attach(
            self.transformer,
            policy,
            chunk_size=config.chunk_size,
            keep_rotated=keep_rotated,
            attention=self._attention_backend(execution.attention, prompt_embeds),
            compile_blocks=execution.compile,
        ) as session:
            yield from rollout(
                self.transformer,
                session,
                plan,
                Steps.from_scheduler(self.scheduler, list(config.sigmas)),
                CounterNoise(seed, samples or list(range(prompt_embeds.shape[0]))),
                prompt_embeds,
                latent_size=self._latent_size,
                context_noise=config.context_noise,
                prefix=None if prefix_latents is None else aligned(prefix_latents),
            )

    @property
    def _latent_size(self) -> tuple[int, int]:
        """Height and width of a latent frame."""
        scale = self.vae.config.scale_factor_spatial
        return self.config.height // scale, self.config.width // scale

    def _attention_backend(self, name: str, like: Tensor) -> str | None:
        """What diffusers calls the backend of that name; None: one that the caller has set."""
        processors = self.transformer.attn_processors.values()
        if name == "auto" and any(getattr(p, "_attention_backend", None) for p in processors):
            return None
        head_dim = self.transformer.config.attention_head_dim
        return ATTENTION[choose_attention(name, like.device, like.dtype, head_dim)]

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

    @torch.no_grad()
    def stream(
        self,
        prompt: str | list[str],
        *,
        num_seconds: float | None = None,
        num_latent_frames: int | None = None,
        policy: Policy | None = None,
        seed: int = 0,
        samples: list[int] | None = None,
        prefix_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        tile: TileSize | None = None,
        keep_rotated: bool = True,
        latents: bool = False,
        execution: Execution | None = None,
    ) -> Iterator[Tensor]:
        """Generate and yield chunk by chunk; memory does not grow with the length.

        Args:
            prompt: one prompt, or one a sample.
            num_seconds: length in seconds.
            num_latent_frames: length in latent frames instead.
            policy: what the model remembers; default `TetherCache()`.
            seed: of the counter-based noise.
            samples: sample number of each prompt (part of the noise's name); default 0, 1, ...
            prefix_latents: clean, normalised latents `[B, C, F, h, w]` that the video starts with.
            prompt_embeds: what `encode_prompt` made of the prompts, so that the text encoder need
                not be there any more.
            tile: decode in spatial tiles of this size.
            keep_rotated: see `attach`; False saves a third of the cache's memory.
            latents: yield clean latents `[B, C, F, h, w]` and do not decode.
            execution: how it is computed: attention backend, compiled code, overlap, preview.

        Yields:
            uint8 frames `[B, F, H, W, 3]` on the CPU; all together exactly the length asked for.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        policy, execution = policy or TetherCache(), execution or Execution()
        plan = self.check_inputs(
            prompts,
            policy,
            num_seconds=num_seconds,
            num_latent_frames=num_latent_frames,
            samples=samples,
            prefix_latents=prefix_latents,
            prompt_embeds=prompt_embeds,
        )
        chunks = self.stream_latents(
            plan.chunks,
            self.encode_prompt(prompts) if prompt_embeds is None else prompt_embeds,
            policy,
            seed=seed,
            samples=samples,
            prefix_latents=prefix_latents,
            keep_rotated=keep_rotated,
            execution=execution,
        )
        if latents:
            yield from chunks
            return
        decoder = self.decoder(tile=tile, execution=execution)

        def decode(chunk: Tensor) -> Tensor:
            return to_uint8(decoder.decode(chunk)).cpu()

        each = overlapped if self._overlaps(execution) else _one_by_one
        left = plan.num_frames
        for frames in each(chunks, decode):
            frames = frames[:, :left]
            left -= frames.shape[1]
            if frames.shape[1]:
                yield frames

    def check_inputs(
        self,
        prompts: list[str],
        policy: Policy,
        *,
        num_seconds: float | None,
        num_latent_frames: int | None,
        samples: list[int] | None = None,
        prefix_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
    ) -> VideoPlan:
        """Check everything that a caller may get wrong; returns the plan.

        Raises:
            ValueError: naming the argument, the rule and the value.
        """
        if not prompts or any(not text.strip() for text in prompts):
            raise ValueError("`prompt` must not be empty")
        if samples is not None and len(samples) != len(prompts):
            raise ValueError(
                f"`samples` ({len(samples)}) must be as many as prompts ({len(prompts)})"
            )
        if prompt_embeds is not None and prompt_embeds.shape[0] != len(prompts):
            raise ValueError(
                f"`prompt_embeds` ({prompt_embeds.shape[0]}) must be as many as prompts "
                f"({len(prompts)})"
            )
        if prefix_latents is not None:
            given = tuple(prefix_latents.shape)
            channels = self.transformer.config.in_channels
            if given != (len(prompts), channels, *given[2:3], *self._latent_size):
                height, width = self._latent_size
                raise ValueError(
                    f"`prefix_latents` {given} must be [{len(prompts)}, {channels}, F, {height}, "
                    f"{width}]"
                )
        return plan_video(
            self.settings,
            policy,
            num_seconds=num_seconds,
            num_latent_frames=num_latent_frames,
            prefix=0 if prefix_latents is None else prefix_latents.shape[2],
            frames_per_latent=self.vae.config.scale_factor_temporal,
        )

    def __call__(
        self, prompt: str | list[str], *, output_type: str = "np", **options: Any
    ) -> CausalVideoOutput:
        """Generate whole videos; for long ones prefer `stream`, which does not collect frames.

        Args:
            prompt: one prompt, or one a sample.
            output_type: `np`, `pt`, `pil` or `latent`, as in diffusers.
            **options: those of `stream`.

        Returns:
            `CausalVideoOutput` with `frames`.
        """
        if output_type not in ("np", "pt", "pil", "latent"):
            raise ValueError(f"`output_type` ({output_type}) must be np, pt, pil or latent")
        if output_type == "latent":
            return CausalVideoOutput(
                torch.cat(list(self.stream(prompt, latents=True, **options)), 2)
            )
        frames = torch.cat(list(self.progress_bar(self.stream(prompt, **options))), dim=1)
        scaled = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return CausalVideoOutput(self.video_processor.postprocess_video(scaled, output_type))


def _one_by_one(
    source: Generator[Tensor, None, None], work: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """What `overlapped` does, in one thread."""
    with closing(source):
        yield from map(work, source)
