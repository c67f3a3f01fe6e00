"""The two ways to ask a pipeline for videos: a stream of chunks, or whole videos at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from tethercache.arguments import flag, instance, one_of
from tethercache.cache import Policy
from tethercache.fit.execution import Execution, require_compiler
from tethercache.models import Settings
from tethercache.pipeline.inputs import Inputs
from tethercache.pipeline.refused import REASONS
from tethercache.pipeline.steps import Callback, StepEnd
from tethercache.rollout import Rollout
from tethercache.script import Change
from tethercache.video import PreviewDecoder, SlicedDecoder, StreamingDecoder, TileSize, first

OUTPUTS = ("np", "pt", "pil", "latent")
"""What a call may return: arrays, tensors, pictures or latents."""

VideoDecoder = StreamingDecoder | SlicedDecoder | PreviewDecoder


@dataclass
class CausalVideoOutput(BaseOutput):
    """Result of a pipeline call.

    Attributes:
        frames: `[B, F, H, W, 3]` in [0, 1] for `np`, `[B, F, 3, H, W]` for `pt`, lists of images
            for `pil`, clean latents `[B, C, F, h, w]` for `latent`.
    """

    frames: Any


class Calls:
    """The part of `CausalVideoPipeline` that is asked for videos."""

    if TYPE_CHECKING:  # what the other parts bring
        begin: Callable[..., Rollout]
        config: Any
        check_inputs: Callable[..., Inputs]
        decoder: Callable[..., VideoDecoder]
        frames: Callable[..., Generator[Tensor, None, None]]
        maybe_free_model_hooks: Callable[[], None]
        progress_bar: Callable[..., Any]
        settings: Settings
        _execution_device: torch.device

    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        num_frames: int | None = None,
        num_seconds: float | None = None,
        num_latent_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
        policy: Policy | str | None = None,
        prefix_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        then: Sequence[Change] = (),
        then_embeds: Mapping[str, Tensor] | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        tile: TileSize | None = None,
        keep_rotated: bool = True,
        decode: bool = True,
        execution: Execution | None = None,
        **others: Any,
    ) -> Generator[Tensor, None, None]:
        """Generate and yield chunk by chunk; memory does not grow with the length.

        Arguments are checked at the call, before anything is computed.

        Args:
            prompt: one prompt, or several; None if there are `prompt_embeds`.
            num_frames: length in pixel frames.
            num_seconds: length in seconds instead.
            num_latent_frames: length in latent frames instead.
            height: pixel rows; default: those that the model was trained on.
            width: pixel columns; default: those that the model was trained on.
            num_videos_per_prompt: how many videos of each prompt, in a row.
            generator: draws the seed, or, as a list, a seed for each video. Used again it draws
                another one.
            seed: of the counter-based noise, from -2 ** 63 to 2 ** 64 - 1, or one for each video;
                default 0.
            samples: sample number of each video (part of the noise's name), 0 or more; default
                0, 1, ..., and 0 where each video has a seed of its own.
            policy: what the model remembers, or its spec, such as `sink:window=12`; default
                `tethercache`.
            prefix_latents: clean, normalised latents `[B, C, F, h, w]` that the videos start with.
            prompt_embeds: what `encode_prompt` made of the prompts, so that the text encoder need
                not be there any more. They are converted to the transformer's dtype and device.
            then: what changes over time, see `script.Change`; one text serves all samples.
            then_embeds: what `encode_prompt` made of the texts in it, `[1, L, C_text]` each.
            callback_on_step_end: is called after each denoising step with the pipeline, the number
                of the step in the video, its timestep and a dictionary of tensors; see
                `steps.StepEnd`. It may set `pipe.interrupt`, and the video ends with this chunk.
            callback_on_step_end_tensor_inputs: the tensors, of `latents` and `prompt_embeds`.
            tile: decode in spatial tiles of this size; default: as `vae.enable_tiling` says.
            keep_rotated: see `attach`; False saves a third of the cache's memory.
            decode: False: yield clean latents `[B, C, F, h, w]`.
            execution: how it is computed: attention backend, compiled code, overlap, preview.
            **others: what else pipelines of diffusers take is refused, with the reason.

        Returns:
            A generator of uint8 frames `[B, F, H, W, 3]` on the CPU, or of latents. All together
            are exactly the length asked for; of a length in seconds or frames, that is the fewest
            latent frames which cover it.

        Raises:
            TypeError: for an argument that no pipeline has.
            ValueError: see `check_inputs`.
            MissingToolError: if code is to be compiled and no compiler is there.
            NotFiniteError: later, if a model makes NaN or infinity.
        """
        execution = Execution.given(execution)
        if isinstance(others.get("latents"), bool):
            warnings.warn("`latents` is now `decode`, its opposite", DeprecationWarning, 2)
            decode = not others.pop("latents")
        inputs = self.check_inputs(
            prompt,
            num_frames=num_frames,
            num_seconds=num_seconds,
            num_latent_frames=num_latent_frames,
            height=height,
            width=width,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            samples=samples,
            policy=policy,
            prefix_latents=prefix_latents,
            prompt_embeds=prompt_embeds,
            then=then,
            then_embeds=then_embeds,
            **others,
        )
        flag("keep_rotated", keep_rotated)
        if tile is not None:
            instance("tile", tile, TileSize, "a `TileSize`")
        step_end = None
        if callback_on_step_end is not None:
            step_end = StepEnd(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        decoder = self.decoder(tile=tile, execution=execution) if flag("decode", decode) else None
        if execution.compile:
            require_compiler(self._execution_device)
        chunks = inputs.plan.chunks
        generated = chunks.num_chunks - chunks.first_generated
        self._num_timesteps = self.settings.steps(generated)
        self._interrupt = False
        return self._generate(inputs, decoder, keep_rotated, execution, step_end)

    @torch.no_grad()
    def _generate(
        self,
        inputs: Inputs,
        decoder: VideoDecoder | None,
        keep_rotated: bool,
        execution: Execution,
        step_end: StepEnd | None,
    ) -> Generator[Tensor, None, None]:
        """Frames of the decoder, or latents without one, cut to the length."""
        rollout = self.begin(inputs, keep_rotated, execution, step_end)
        chunks = self._uninterrupted(rollout.rest())
        try:
            if decoder is None:
                yield from first(inputs.plan.chunks.num_latent_frames, chunks, axis=2)
            else:
                yield from self.frames(chunks, decoder, inputs.plan.num_frames, execution)
        finally:
            self.maybe_free_model_hooks()

    def _uninterrupted(
        self, chunks: Generator[Tensor, None, None]
    ) -> Generator[Tensor, None, None]:
        """The chunks up to the one in which `interrupt` was set, that one included."""
        with closing(chunks):
            for chunk in chunks:
                yield chunk
                if self._interrupt:
                    return

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        num_frames: int | None = None,
        num_seconds: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **options: Any,
    ) -> CausalVideoOutput | tuple[Any]:
        """Generate whole videos; for long ones prefer `stream`, which does not collect frames.

        The arguments that are named mean what they mean in diffusers; `stream` has them all.

        Args:
            prompt: one prompt, or several; None if there are `prompt_embeds`.
            num_frames: length in pixel frames; default: as many as the model was trained on, 81
                for 21 latent frames.
            num_seconds: length in seconds instead.
            height: pixel rows.
            width: pixel columns.
            num_videos_per_prompt: how many videos of each prompt, in a row.
            generator: draws the seed, or, as a list, a seed for each video.
            seed: of the noise instead; default 0.
            prompt_embeds: text embeddings, in place of prompts.
            output_type: `np`, `pt`, `pil` or `latent`, as in diffusers.
            return_dict: False: return a tuple.
            callback_on_step_end: is called after each denoising step.
            callback_on_step_end_tensor_inputs: the tensors that it is given.
            **options: the others of `stream`, such as `policy`.

        Returns:
            `CausalVideoOutput` with `frames`, or a tuple of these.

        Raises:
            TypeError: for an argument that no pipeline has.
            ValueError: see `check_inputs`.
        """
        one_of("output_type", output_type, OUTPUTS)
        flag("return_dict", return_dict)
        if isinstance(options.get("latents"), bool):
            raise ValueError(f"`latents` is not taken: {REASONS['latents']}")
        lengths = {"num_frames": num_frames, "num_seconds": num_seconds}
        stream = self.stream(
            prompt,
            height=height,
            width=width,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            seed=seed,
            prompt_embeds=prompt_embeds,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            decode=output_type != "latent",
            **self.with_length(options | lengths),
        )
        pieces = list(self.progress_bar(stream))
        if output_type == "latent":
            frames = torch.cat(pieces, dim=2)
        else:
            frames = formatted(torch.cat(pieces, dim=1), output_type)
        return CausalVideoOutput(frames) if return_dict else (frames,)

    def with_length(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked, with the length that the model was trained on if it has none."""
        lengths = ("num_frames", "num_seconds", "num_latent_frames")
        if all(asked.get(name) is None for name in lengths):
            return {**asked, "num_latent_frames": self.config.window}
        return dict(asked)


def formatted(frames: Tensor, output_type: str) -> Any:
    """Uint8 frames `[B, F, H, W, 3]` as `CausalVideoOutput` has them: `np`, `pt` or `pil`."""
    scaled = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return VideoProcessor().postprocess_video(scaled, output_type)
