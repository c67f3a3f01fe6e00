"""The causal rollout as blocks of modular diffusers: prompt, rollout, decode.

    blocks = CausalBlocks()
    pipe = blocks.init_pipeline("folder of a saved model")
    pipe.load_components()
    videos = pipe(prompt="a red ball rolling over grass", num_frames=81, output="videos")

The rollout is a loop over chunks. A block that is put behind its block `chunk` finds in its state
the `rollout` (to switch the prompt, to pin, to save) and the clean latents of the `chunk` just
made. The bits are those of `CausalVideoPipeline`. Axes: latents `[B, C, F, h, w]`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    ComponentSpec,
    ConfigSpec,
    FlowMatchLCMScheduler,
    InputParam,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    OutputParam,
    SequentialPipelineBlocks,
    WanTransformer3DModel,
)
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from tethercache.arguments import one_of, texts
from tethercache.cache import Policy
from tethercache.conditioning import encode_prompts, warn_of_unread
from tethercache.errors import NotFiniteError
from tethercache.fit.execution import Execution
from tethercache.models import Settings
from tethercache.pipeline.calls import OUTPUTS, formatted
from tethercache.pipeline.causal import CausalVideoPipeline
from tethercache.video import StreamingDecoder, tiles_of, to_uint8

_ASKED = [
    InputParam("prompt_embeds", Tensor, required=True, description="Text embeddings [B, L, C]."),
    InputParam("num_frames", int, description="Length in pixel frames."),
    InputParam("num_seconds", float, description="Length in seconds instead."),
    InputParam("num_latent_frames", int, description="Length in latent frames instead."),
    InputParam("height", int, description="Pixel rows; default: the model's."),
    InputParam("width", int, description="Pixel columns; default: the model's."),
    InputParam("num_videos_per_prompt", int, 1, description="How many videos of each prompt."),
    InputParam("generator", torch.Generator, description="Draws the seed, or a list of them."),
    InputParam("seed", int, description="Of the noise; default 0."),
    InputParam("samples", list, description="Sample number of each video."),
    InputParam("policy", Policy, description="What the model remembers, or its spec."),
    InputParam("prefix_latents", Tensor, description="Clean latents to start from."),
]


def _settings() -> list[ConfigSpec]:
    return [ConfigSpec(name, value) for name, value in Settings().config().items()]


class EncodePrompt(ModularPipelineBlocks):
    """Prompts to text embeddings."""

    @property
    def description(self) -> str:
        """For diffusers."""
        return "Encodes prompts as the causal model reads them."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """For diffusers."""
        return [
            ComponentSpec("tokenizer", PreTrainedTokenizerBase),
            ComponentSpec("text_encoder", T5EncoderModel),
        ]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        """For diffusers."""
        return _settings()

    @property
    def inputs(self) -> list[InputParam]:
        """For diffusers."""
        return [InputParam("prompt", str, required=True, description="One prompt, or several.")]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """For diffusers."""
        return [OutputParam("prompt_embeds", Tensor, "Text embeddings [B, L, C].")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Encode."""
        here = self.get_block_state(state)
        prompts, tokenizer = texts("prompt", here.prompt), components.tokenizer
        length = Settings.of(dict(components.config)).max_sequence_length
        warn_of_unread(tokenizer, prompts, length=length)
        embeds = encode_prompts(tokenizer, components.text_encoder, prompts, length=length)
        NotFiniteError.check("text encoder", "prompt", embeds, axis=0)
        here.prompt_embeds = embeds
        self.set_block_state(state, here)
        return components, state


class MakeChunk(ModularPipelineBlocks):
    """One more chunk of the rollout."""

    @property
    def description(self) -> str:
        """For diffusers."""
        return "Makes the next chunk: `chunk`, clean latents, of `rollout`."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """For diffusers."""
        return [ComponentSpec("transformer", WanTransformer3DModel)]

    @torch.no_grad()
    def __call__(self, components: Any, here: Any, number: int) -> tuple[Any, Any]:
        """Make it."""
        here.chunk = next(here.rollout)
        return components, here


class RollOut(LoopSequentialPipelineBlocks):
    """Chunk by chunk, from noise to clean latents."""

    block_classes = [MakeChunk]  # noqa: RUF012
    block_names = ["chunk"]  # noqa: RUF012

    @property
    def description(self) -> str:
        """For diffusers."""
        return "Makes a video chunk by chunk; its blocks are called once a chunk."

    @property
    def loop_expected_components(self) -> list[ComponentSpec]:
        """For diffusers."""
        return [
            ComponentSpec("scheduler", FlowMatchLCMScheduler),
            ComponentSpec("vae", AutoencoderKLWan),  # says how large a latent is
        ]

    @property
    def loop_expected_configs(self) -> list[ConfigSpec]:
        """For diffusers."""
        return _settings()

    @property
    def loop_inputs(self) -> list[InputParam]:
        """For diffusers."""
        return list(_ASKED)

    @property
    def loop_intermediate_outputs(self) -> list[OutputParam]:
        """For diffusers."""
        return [
            OutputParam("latents", Tensor, "Clean latents [B, C, F, h, w]."),
            OutputParam("video_frames", int, "Pixel frames of the video."),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Run the blocks for every chunk."""
        here = self.get_block_state(state)
        pipe = _pipeline(components)
        asked = {param.name: getattr(here, param.name) for param in _ASKED}
        inputs = pipe.check_inputs(**pipe.with_length(asked))
        here.rollout = pipe.begin(inputs, True, Execution())
        plan, made = inputs.plan, []
        with here.rollout.session.attached():
            for number in self.progress_bar(range(plan.chunks.num_chunks)):
                components, here = self.loop_step(components, here, number=number)
                made.append(here.chunk)
        here.latents = torch.cat(made, dim=2)[:, :, : plan.chunks.num_latent_frames]
        here.video_frames = plan.num_frames
        self.set_block_state(state, here)
        return components, state


class Decode(ModularPipelineBlocks):
    """Latents to frames."""

    @property
    def description(self) -> str:
        """For diffusers."""
        return "Decodes latents frame by frame, as a stream is."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """For diffusers."""
        return [ComponentSpec("vae", AutoencoderKLWan)]

    @property
    def inputs(self) -> list[InputParam]:
        """For diffusers."""
        return [
            InputParam("latents", Tensor, required=True, description="Clean latents."),
            InputParam("video_frames", int, description="How many to keep; default: all."),
            InputParam("output_type", str, "np", description=f"One of {', '.join(OUTPUTS)}."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """For diffusers."""
        return [OutputParam("videos", list, "Frames as `output_type` says.")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Decode."""
        here = self.get_block_state(state)
        here.videos = here.latents
        if one_of("output_type", here.output_type, OUTPUTS) != "latent":
            decoder = StreamingDecoder(components.vae, tile=tiles_of(components.vae))
            frames = to_uint8(decoder.decode(here.latents)).cpu()[:, : here.video_frames]
            here.videos = formatted(frames, here.output_type)
        self.set_block_state(state, here)
        return components, state


class CausalBlocks(SequentialPipelineBlocks):
    """Prompt in, long video out."""

    block_classes = [EncodePrompt, RollOut, Decode]  # noqa: RUF012
    block_names = ["text_encoder", "rollout", "decode"]  # noqa: RUF012

    @property
    def description(self) -> str:
        """For diffusers."""
        return "Long video from a causal few-step Wan model, with a cache policy."


def _pipeline(components: Any) -> CausalVideoPipeline:
    """The pipeline of what the rollout needs."""
    settings = Settings.of(dict(components.config))
    parts = {name: getattr(components, name) for name in ("transformer", "vae", "scheduler")}
    return CausalVideoPipeline(tokenizer=None, text_encoder=None, **parts, **settings.config())
