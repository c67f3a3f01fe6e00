"""An order's model in its place: loaded as it fits, its prompts encoded, ready to make videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tethercache.conditioning import cut_off
from tethercache.fit import Execution, Machine, Placement, Wishes, choose, measure
from tethercache.fit.execution import choose_attention, overlap_choices, use_threads
from tethercache.fit.memory import Sizes
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies import POLICIES
from tethercache.render.batch import Resume
from tethercache.render.durable import Saver, open_recording
from tethercache.render.guard import Guard
from tethercache.render.order import Order
from tethercache.render.prefix import encode_prefix, warn_of_rate
from tethercache.render.record import describe, shared
from tethercache.render.recording import Recording, Segment
from tethercache.render.render import Render
from tethercache.render.snapshots import Snapshots, snapshot_folder
from tethercache.render.steps import Making
from tethercache.request import VideoRequest
from tethercache.script import texts_of
from tethercache.trace import Tracer
from tethercache.video import Sidecar, TileSize
from tethercache.video import channels_last as lay_out


def load(
    order: Order, prompts: Iterable[str], *, like: Sidecar | None = None, keep: bool = False
) -> Loaded:
    """Choose how an order fits, load its model and encode its prompts.

    The text encoder is used first and freed before the others are on the device. PyTorch's threads
    are set as the request says, and stay so.

    Args:
        order: what to make.
        prompts: those of all videos that will be asked for; what the order's own request changes
            over time is encoded, too.
        like: choose number formats and threads as in this record, where the request leaves them
            open: its video shall go on.
        keep: let the text encoder work on the CPU, and stay there; see `render/held.py`.

    Raises:
        NotEnoughMemoryError: if it does not fit; nothing was loaded.
        TetherCacheError: if a file cannot be read, or is not what it has to be.
        ValueError: if the attention backend cannot be used here.
    """
    request = order.request
    if order.clip is not None:
        warn_of_rate(order.clip, order.parts.settings)
    sizes = measure(order.parts)
    threads, dtype = request.threads, request.dtype
    if like is not None:
        threads, dtype = threads or like.settings.get("threads"), dtype or like.dtype
    use_threads(threads, order.device, sizes.activations)
    placement, execution = place(order, sizes, Machine.here(order.device), dtype)
    if keep:
        placement = replace(placement, text_encoder="cpu")
    pipe = CausalVideoPipeline.from_pretrained(
        order.parts,
        loras=[(Path(lora.file), lora.scale) for lora in request.loras],
        dtype=getattr(torch, placement.dtype),
    )
    encoder = pipe.text_encoder.to(placement.text_encoder)
    texts = dict.fromkeys([*prompts, *texts_of(request.then)])
    embeds = encode(pipe, encoder, texts)
    if not keep:
        encoder = None
    pipe.to(order.device)
    if request.vae_dtype is not None:
        pipe.vae.to(getattr(torch, placement.vae_dtype))
    if request.channels_last:
        lay_out(pipe.vae)
    prefix = None
    if order.clip is not None:
        prefix = encode_prefix(pipe.vae, order.clip, pipe.settings)
    return Loaded(
        order=order,
        pipe=pipe,
        placement=placement,
        execution=execution,
        prompt_embeds=embeds,
        prefix_latents=prefix,
        text_encoder=encoder,
    )


def place(
    order: Order, sizes: Sizes, machine: Machine, dtype: str | None
) -> tuple[Placement, Execution]:
    """How an order fits, and how it computes, every choice made.

    Args:
        order: what to make.
        sizes: of its model.
        machine: where.
        dtype: number format of weights and cache; None: the first that fits.

    Raises:
        NotEnoughMemoryError: if it does not fit.
        ValueError: if the attention backend cannot be used there.
    """
    request = order.request
    wishes = Wishes(
        dtype=dtype,
        vae_dtype=request.vae_dtype,
        limit=request.memory_limit,
        overlap=overlap_choices(request.execution, order.device),
    )
    placement = choose(sizes, order.policy, machine, wishes)
    computed = getattr(torch, placement.dtype)
    attention = choose_attention(request.attention, order.device, computed, sizes.head_dim)
    overlap = "on" if placement.overlap else "off"
    return placement, replace(request.execution, attention=attention, overlap=overlap)


@torch.no_grad()
def encode(pipe: Any, encoder: Any, prompts: Iterable[str]) -> dict[str, Tensor]:
    """Encode prompts; the pipeline then has no text encoder.

    So it and a cache never share the memory of a device. What comes of the prompts waits on the
    CPU, so that a device does not hold more for more prompts.
    """
    pipe.register_modules(text_encoder=encoder)
    try:
        return {text: pipe.encode_prompt([text]).cpu() for text in prompts}
    finally:
        pipe.register_modules(text_encoder=None)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to make the videos of an order.

    Attributes:
        order: what is made.
        pipe: the model, without its text encoder.
        placement: how it fits into memory.
        execution: how it computes, every choice made.
        prompt_embeds: what became of each prompt, `[1, L, C_text]` on the CPU.
        prefix_latents: what the videos start with, `[1, C, F, h, w]`.
        text_encoder: on the CPU, for more prompts; None where it was freed.
    """

    order: Order
    pipe: Any
    placement: Placement
    execution: Execution
    prompt_embeds: dict[str, Tensor]
    prefix_latents: Tensor | None
    text_encoder: Any = None

    def render(self, request: VideoRequest) -> Render:
        """Begin a video of the order; prompt, seed, sample and changes over time may be others.

        Raises:
            ValueError: if a prompt was not encoded, or it asks for something else.
        """
        for text in texts_of(request.then):
            self.embeds(text)
        free = {name: getattr(request, name) for name in ("prompt", "seed", "sample", "then")}
        if replace(self.order.request, **free) != request:
            raise ValueError("the request differs from the one that this was loaded for")
        tiles = self.placement.tiles
        size = tiles and TileSize(tiles.size, tiles.size, tiles.stride, tiles.stride)
        rollout = self.pipe.rollout(
            request.prompt,
            policy=self.order.policy,
            seed=request.seed,
            samples=[request.sample],
            prompt_embeds=self.embeds(request.prompt),
            then=request.then,
            then_embeds=self.prompt_embeds,
            prefix_latents=self.prefix_latents,
            keep_rotated=self.placement.keep_rotated,
            execution=self.execution,
            **request.length,
        )
        decoder = self.pipe.decoder(tile=size, execution=self.execution)
        decode = partial(self.pipe.frames, execution=self.execution)
        plan, fps = self.order.plan, Fraction(self.pipe.settings.fps)
        tracer = Tracer() if request.trace else None
        return Render(
            request, plan, rollout, decoder, decode, self.embeds, fps, self.render, tracer
        )

    def embeds(self, text: str) -> Tensor:
        """Text embeddings `[1, L, C_text]` of a prompt.

        Raises:
            ValueError: it was not encoded when this was loaded.
        """
        if text not in self.prompt_embeds:
            raise ValueError(f"the prompt {text!r} was not encoded when this was loaded")
        return self.prompt_embeds[text].to(self.order.device)

    def make(
        self,
        request: VideoRequest,
        path: Path,
        *,
        overwrite: bool = False,
        resume: Resume = Resume.NO,
        command: Sequence[str] = (),
        told: Callable[[Recording], None] = lambda recording: None,
        said: Callable[[str], None] = lambda text: None,
    ) -> Sidecar:
        """Make a video and its files; see `render/durable.py`.

        Args:
            request: see `render`.
            path: `NAME.mp4`; the record becomes `NAME.json`.
            overwrite: see `Recording`.
            resume: whether to go on with what a run that broke off has left.
            command: the command line, for the record.
            told: is called when a chunk of frames is in the file.
            said: is told where a video goes on.

        Returns:
            The record.

        Raises:
            OSError: if the files cannot be written.
            NotFiniteError: if the model makes NaN or infinity.
            OtherRequestError: if the unfinished video is of another request.
            OtherCircumstancesError: if it was made with other software or hardware.
        """
        with self.begin(
            request, path, overwrite=overwrite, resume=resume, command=command, said=said
        ) as making:
            for _ in making:
                told(making.recording)
        return making.recording.record

    def begin(
        self,
        request: VideoRequest,
        path: Path,
        *,
        overwrite: bool = False,
        resume: Resume = Resume.NO,
        command: Sequence[str] = (),
        said: Callable[[str], None] = lambda text: None,
    ) -> Making:
        """Begin a video and its files, to be made chunk by chunk; the arguments are `make`'s."""
        record, segment = self.record(request, path.parent, command), Segment.of(self.pipe.settings)
        keep, budget = request.keep_snapshots, request.snapshot_bytes
        snapshots = Snapshots(snapshot_folder(path), keep=keep, budget=budget)
        watched = request.watch_drift or request.guard
        with ExitStack() as undone:
            render = self.render(request)
            undone.callback(render.close)
            recording, start = open_recording(
                path,
                record,
                resume,
                snapshots,
                overwrite=overwrite,
                crf=request.crf,
                watch=_drift_watch(record.fps) if watched else None,
                segment=segment,
                trace=self._trace_header(record) if request.trace else None,
            )
            undone.callback(recording.abandon)
            said(start.said)
            guard = self._guard(render, recording) if request.guard else None
            saver = Saver(snapshots, recording, request.snapshot_every)
            making = Making(render, recording, start, saver, snapshots, guard, said)
            undone.pop_all()
        return making

    def _guard(self, render: Render, recording: Recording) -> Guard:
        policy = POLICIES.spec(self.order.policy, full=True)
        start = {"render": render.first_state(), "recording": recording.state_dict()}
        return Guard(start, render.request.seed, policy)

    def _trace_header(self, record: Sidecar) -> dict[str, Any]:
        return {
            "prompt": record.prompt,
            "policy": record.policy,
            "seed": record.seed,
            "sample": record.sample,
            "budget": self.order.policy.budget,
            "fps": float(record.fps),
            "frames_per_latent": 4,
        }

    def record(self, request: VideoRequest, folder: Path, command: Sequence[str] = ()) -> Sidecar:
        """The record of a video in `folder`, as far as it is known before the first frame."""
        asked = describe(replace(self.order, request=request), folder)
        settings, chunks = self.pipe.settings, self.order.plan.chunks
        sizes = tuple(chunk.frames for chunk in chunks)
        return Sidecar(
            prompt=request.prompt,
            sample=request.sample,
            model_hash=self.fingerprint,
            width=settings.width,
            height=settings.height,
            fps=Fraction(settings.fps),
            num_latent_frames=sum(sizes),
            chunk_sizes=sizes,
            dtype=self.placement.dtype,
            device=_device_name(self.order.device),
            settings={
                "sigmas": list(settings.sigmas),
                **({"first_sigmas": list(first)} if (first := settings.first_sigmas) else {}),
                "context_noise": settings.context_noise,
                "flow_shift": self.pipe.scheduler.config.shift,
                "threads": torch.get_num_threads(),
                "text_encoder_device": self.placement.text_encoder,
                "cpu": torch.backends.cpu.get_cpu_capability(),
                **asked.settings,
                **self._unusual(),
                **self._cut_off(request),
            },
            command=tuple(command),
            request=shared(request, folder).to_dict(),
            **asked.fields,
        )

    def _cut_off(self, request: VideoRequest) -> dict[str, Any]:
        """What of the prompts is not read."""
        length = self.pipe.settings.max_sequence_length

        def unread(text: str) -> str:
            return cut_off(self.pipe.tokenizer, text, length=length)

        later = {text: end for text in texts_of(request.then) if (end := unread(text))}
        found = {"prompt_cut_off": unread(request.prompt), "changes_cut_off": later}
        return {name: value for name, value in found.items() if value}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model; see `Parts.fingerprint`."""
        return self.order.parts.fingerprint()

    def _unusual(self) -> dict[str, Any]:
        """What of the way of computing decides about the frames, where it is not the plainest."""
        request, tiles = self.order.request, self.placement.tiles
        plain = {"attention": "native", "compile": False, "decoder": "vae"}
        used = {name: getattr(self.execution, name) for name in plain}
        used |= {"vae_dtype": request.vae_dtype, "channels_last": request.channels_last}
        plain |= {"vae_dtype": None, "channels_last": False}
        unusual = {name: value for name, value in used.items() if value != plain[name]}
        if tiles is not None:
            unusual["tiles"] = {"size": tiles.size, "stride": tiles.stride}
        return unusual


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _drift_watch(fps: Fraction) -> Any:
    from tethercache.evaluation.watch import DriftWatch

    return DriftWatch(float(fps))
