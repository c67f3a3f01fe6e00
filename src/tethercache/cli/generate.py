"""`tethercache generate`: prompts in, mp4 files with sidecars out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from tethercache.arguments import SEEDS, whole_number
from tethercache.batch import (
    IncompleteBatchError,
    Job,
    check_folder,
    complete_made,
    is_made,
    name_videos,
)
from tethercache.cli.failures import Debug, report
from tethercache.cli.inputs import (
    describe_extras,
    describe_tiles,
    encode_prefix,
    parse_loras,
    plan_with_prefix,
    read_prefix,
    warn_of_rate,
)
from tethercache.cli.stop import leaves
from tethercache.evaluation import need
from tethercache.fit import Machine, Wishes, choose, pick_device
from tethercache.fit.execution import (
    ATTENTION,
    Execution,
    check_threads,
    choose_attention,
    counted,
    overlap_choices,
    require_compiler,
    use_threads,
)
from tethercache.models import SHIPPED, Settings, fetch, find
from tethercache.policies import POLICIES
from tethercache.prompts import check_prompt, check_text, read_prompts
from tethercache.request import check_length
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.video import Sidecar

DEFAULT_SECONDS = 10.0
_SPEED = "Speed"


class DType(StrEnum):
    """Number formats of weights and cache."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What the video shows.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="A text file with one prompt a line, instead; - is standard input. Lines that "
            "begin with # are comments.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", "-s", help="Length.", show_default=f"{DEFAULT_SECONDS:g}"),
    ] = None,
    latent_frames: Annotated[
        int | None,
        typer.Option(help="Length in latent frames n, instead: 4 n - 3 video frames."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="NAME[:KEY=VALUE,...]",
            help="What the model remembers; see `tethercache policies`.",
            show_default="tethercache, in a window that suits the model",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A name of `tethercache models list`, a folder, a checkpoint or a hub id.",
        ),
    ] = "tiny",
    weights_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Take the model's files from here, not from the hub's cache."
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="A LoRA to merge; may be given several times."),
    ] = None,
    prefix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A clip or picture that the video starts with, frame for frame."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    num_samples: Annotated[int, typer.Option(help="Videos for each prompt.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The mp4 to write, or a folder that is there; with several videos, a folder. What "
            "is there of them already is not made again.",
            show_default="named by the prompt",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...; auto picks.")
    ] = "auto",
    dtype: Annotated[
        DType | None,
        typer.Option(
            help="Number format.", show_default="float32 on a CPU where it fits, else bfloat16"
        ),
    ] = None,
    vram: Annotated[
        str,
        typer.Option(metavar="12|16|24|auto", help="GB to stay within; auto: what is free."),
    ] = "auto",
    attention: Annotated[
        str,
        typer.Option(
            metavar="|".join(("auto", *ATTENTION)),
            help="Attention backend; auto: by what is installed and what the device can do.",
            rich_help_panel=_SPEED,
        ),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile transformer and decoder first: minutes once, for long videos.",
            rich_help_panel=_SPEED,
        ),
    ] = False,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="auto|on|off",
            help="Decode a chunk while the next is denoised; auto: on a GPU, and on a CPU that has "
            "at least twice as many cores as --threads. The frames stay the same.",
            rich_help_panel=_SPEED,
        ),
    ] = "auto",
    decoder: Annotated[
        str,
        typer.Option(
            metavar="vae|preview",
            help="preview: decode the first chunk only; then one colour for each latent cell (8x8 "
            "pixels of 4 frames), a rough picture at next to no cost.",
            rich_help_panel=_SPEED,
        ),
    ] = "vae",
    threads: Annotated[
        int | None,
        typer.Option(
            help="PyTorch's threads on a CPU; a video's record says how many it was made with.",
            show_default="by the model's size and the number of cores",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    vae_dtype: Annotated[
        DType | None,
        typer.Option(
            help="Number format of the VAE.", show_default="as --dtype", rich_help_panel=_SPEED
        ),
    ] = None,
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last",
            help="Memory layout of the VAE's convolutions, faster on some GPUs.",
            rich_help_panel=_SPEED,
        ),
    ] = False,
    crf: Annotated[
        int, typer.Option(min=1, max=51, help="Quality of the mp4: 1 is the best, 51 the smallest.")
    ] = 18,
    watch_drift: Annotated[
        bool, typer.Option("--watch-drift", help="Say while it is made how far the video drifts.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace existing files, unfinished videos included."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line about the videos last.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Generate long videos from prompts.

    Frames are written as they are made: the unfinished video is NAME.partial.mp4 and can be
    watched. Beside each video stands NAME.json with all that is needed to make it again.
    """
    # everything that can be wrong is found out before the weights are loaded, and what needs no
    # library before the libraries
    execution = Execution(attention, compiled, overlap, decoder)
    check_threads(threads)
    for value in (prompts, policy, model, weights_dir, prefix, output, *(lora or [])):
        check_text(str(value), "an argument")
    texts = _read_prompts(prompt, prompts)
    if seconds is not None and latent_frames is not None:
        raise ValueError("give --seconds or --latent-frames, not both")
    if seconds is None and latent_frames is None:
        seconds = DEFAULT_SECONDS
    length: dict[str, Any] = {"num_seconds": seconds, "num_latent_frames": latent_frames}
    check_length(**length)
    whole_number("seed", seed, *SEEDS)
    jobs = name_videos(texts, num_samples, output)
    blocked = _check_names(jobs, overwrite)
    found = find(model)
    limit = _parse_vram(vram)
    loras = parse_loras(lora or [])
    clip = read_prefix(prefix) if prefix is not None else None
    chosen = POLICIES.parse(policy or found.policy)
    if found.settings is not None:
        _, clip = plan_with_prefix(clip, found.settings, chosen, length)
    if watch_drift:
        need("eval")
    place = pick_device(device)
    if compiled:
        require_compiler(place)

    from tethercache.files import check_space
    from tethercache.fit import measure
    from tethercache.models.checkpoints.lora import read_lora, require_peft
    from tethercache.video import shareable
    from tethercache.video.mp4 import expected_bytes

    if loras or (found.preset is not None and found.preset.lora is not None):
        require_peft()
    for file, _ in loras:
        read_lora(file)
    _quiet_libraries()
    parts = fetch(found, weights_dir)
    plan, clip = plan_with_prefix(clip, parts.settings, chosen, length)
    folder = jobs[0].path.parent
    extras = {"crf": crf} | describe_extras(loras, prefix, folder)
    is_local = found.path is not None and model not in SHIPPED
    request: dict[str, Any] = {
        "model": shareable(model, folder) if is_local else model,
        "policy": POLICIES.spec(chosen, full=True),
        "seed": seed,
        "num_frames": plan.num_frames,
    }
    several = len(jobs) > 1
    kept = [
        job.path
        for job in jobs
        if complete_made(job, request, extras, overwrite=overwrite)
        or (job.path in blocked and is_made(job, request, extras))
    ]
    failed = [path for path in blocked if path not in kept]
    for path in failed:
        if not several:
            raise blocked[path]
        report(blocked[path])
    jobs = [job for job in jobs if job.path not in {*blocked, *kept}]
    if not jobs:
        return _finish([], kept, failed, as_json)
    if clip is not None:
        warn_of_rate(clip, parts.settings)
    size = expected_bytes(plan.num_frames, parts.settings.width, parts.settings.height, crf)
    check_space(folder, (len(jobs) + 1) * size)  # a video is there twice when it is completed
    sizes = measure(parts)
    use_threads(threads, place, sizes.activations)
    wishes = Wishes(
        dtype=dtype and dtype.value,
        vae_dtype=vae_dtype and vae_dtype.value,
        limit=limit,
        overlap=overlap_choices(execution, place),
    )
    placement = choose(sizes, chosen, Machine.here(place), wishes)
    number_format = placement.dtype

    import torch

    from tethercache.conditioning import cut_off
    from tethercache.pipeline import CausalVideoPipeline
    from tethercache.video import TileSize
    from tethercache.video import channels_last as lay_out

    execution = replace(
        execution,
        attention=choose_attention(attention, place, getattr(torch, number_format), sizes.head_dim),
        overlap="on" if placement.overlap else "off",
    )

    if several:
        jobs[0].path.parent.mkdir(parents=True, exist_ok=True)
    pipe = CausalVideoPipeline.from_pretrained(
        parts, loras=loras, torch_dtype=getattr(torch, number_format)
    )
    # prompts first, so that text encoder and cache are never in memory together; then they wait on
    # the CPU, so that what the device holds does not grow with their number
    text_device = placement.text_encoder
    pipe.text_encoder.to(text_device)
    with torch.no_grad():
        embeds = {
            text: pipe.encode_prompt([text]).cpu()
            for text in dict.fromkeys(job.prompt for job in jobs)
        }
    pipe.register_modules(text_encoder=None)
    pipe.to(place)
    if vae_dtype is not None:
        pipe.vae.to(getattr(torch, vae_dtype.value))
    if channels_last:
        lay_out(pipe.vae)
    options: dict[str, Any] = {
        **length,
        "keep_rotated": placement.keep_rotated,
        "execution": execution,
    }
    if clip is not None:
        options["prefix_latents"] = encode_prefix(pipe.vae, clip, pipe.settings)
    if (tiles := placement.tiles) is not None:
        options["tile"] = TileSize(tiles.size, tiles.size, tiles.stride, tiles.stride)
    record = _Record(
        model=request["model"],
        model_hash=parts.fingerprint(),
        policy=request["policy"],
        seed=seed,
        device=torch.cuda.get_device_name(place) if place.startswith("cuda") else place,
        dtype=number_format,
        settings=pipe.settings,
        extras={
            "flow_shift": pipe.scheduler.config.shift,
            "threads": torch.get_num_threads(),
            "text_encoder_device": text_device,
        }
        | extras
        | describe_tiles(tiles)
        | _describe(execution, vae_dtype and vae_dtype.value, channels_last),
        watch_drift=watch_drift,
        crf=crf,
    )
    console = Console(stderr=True)
    console.print(
        f"policy [bold]{POLICIES.spec(chosen)}[/] · model {escape(printable(model))} · "
        f"seed {seed} · {place} {number_format} · {counted(torch.get_num_threads(), 'thread')} · "
        f"attention {execution.attention}"
        f"{' · compiled' * compiled}{' · overlapped' * placement.overlap} · "
        f"{plan.num_frames} frames at {pipe.settings.fps} fps",
        highlight=False,
        soft_wrap=True,
    )
    made = []
    for job in jobs:
        options["prompt_embeds"] = embeds[job.prompt].to(place)
        unread = cut_off(pipe.tokenizer, job.prompt, length=pipe.settings.max_sequence_length)
        noted = replace(
            record, extras=record.extras | ({"prompt_cut_off": unread} if unread else {})
        )
        try:
            with _progress(console, plan.chunks.num_chunks, pipe.settings.fps) as progress:
                summary = _make(pipe, job, chosen, plan, options, noted, overwrite, progress)
        except Exception as error:
            if not several:
                raise
            report(error, where=str(job.path))  # the next one may well be made
            failed.append(job.path)
        else:
            made.append(summary)
            _say(summary, POLICIES.spec(chosen))
        leaves("")
    return _finish(made, kept, failed, as_json)


def _say(summary: dict[str, Any], policy: str) -> None:
    """Print what was made."""
    print(
        printable(
            f"{summary['path']}: {summary['num_frames']} frames, {summary['seconds']:g} s of video "
            f"in {summary['wall_seconds']:.1f} s, {summary['frames_per_second']:.1f} frames/s, "
            f"policy {policy}"
        )
    )
    if "drift" in summary:
        changes = summary["drift"]["changes"].items()
        known = ", ".join(f"{name} {value:.3g}" for name, value in changes if value is not None)
        print(f"drift: {summary['drift']['verdict'] or 'too short to say'} {known}".rstrip())


def _finish(
    made: list[dict[str, Any]], kept: list[Path], failed: list[Path], as_json: bool
) -> None:
    """Say how a batch went.

    Raises:
        IncompleteBatchError: videos are missing.
    """
    for path in kept:
        print(printable(f"{path}: made before, kept"))
    if as_json:
        print(
            json.dumps({"videos": made, "kept": [*map(str, kept)], "failed": [*map(str, failed)]})
        )
    if failed:
        total = len(made) + len(kept) + len(failed)
        raise IncompleteBatchError(
            f"{len(failed)} of {total} videos were not made: {', '.join(map(str, failed))}"
        )


@dataclass(frozen=True)
class _Record:
    """What all videos of a run share in their sidecars."""

    model: str
    model_hash: str
    policy: str
    seed: int
    device: str
    dtype: str
    settings: Settings
    extras: dict[str, Any]
    watch_drift: bool
    crf: int


def _make(
    pipe: Any,
    job: Job,
    policy: Any,
    plan: Any,
    options: dict[str, Any],
    record: _Record,
    overwrite: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Generate one video and its sidecar; returns the summary of the JSON line."""
    from tethercache.video import Recording, Sidecar, command_line
    from tethercache.video.writer import partial_path

    settings = record.settings
    task = progress.add_task(
        printable(job.path.name), total=plan.chunks.num_chunks, frames=0, drift=""
    )
    watch = _drift_watch(settings.fps) if record.watch_drift else None
    request = Sidecar(
        prompt=job.prompt,
        model=record.model,
        model_hash=record.model_hash,
        policy=record.policy,
        seed=record.seed,
        sample=job.sample,
        width=settings.width,
        height=settings.height,
        fps=Fraction(settings.fps),
        num_frames=plan.num_frames,
        num_latent_frames=sum(chunk.frames for chunk in plan.chunks),
        chunk_sizes=tuple(chunk.frames for chunk in plan.chunks),
        dtype=record.dtype,
        device=record.device,
        settings={
            "sigmas": settings.sigmas,
            "context_noise": settings.context_noise,
            **record.extras,
        },
        command=command_line(keep=job.prompt),
    )
    with Recording(job.path, request, overwrite=overwrite, crf=record.crf) as recording:
        stream = pipe.stream(
            job.prompt, policy=policy, seed=record.seed, samples=[job.sample], **options
        )
        with closing(stream) as chunks:
            for chunk in chunks:
                recording.write(chunk[0])
                leaves(f"{partial_path(job.path)} keeps what is made, --overwrite replaces it")
                if watch is not None:
                    watch.update(chunk[0].numpy())
                    progress.update(task, drift=f"· {watch.status()}" if watch.status() else "")
                progress.update(task, advance=1, frames=recording.num_frames)
        if watch is not None:
            recording.note(drift=watch.summary())
    return _summary(job, recording.record)


def _summary(job: Job, record: Sidecar) -> dict[str, Any]:
    """What the JSON line says about a video."""
    return {
        "path": str(job.path),
        "prompt": job.prompt,
        "sample": job.sample,
        "seed": record.seed,
        "policy": record.policy,
        "num_frames": record.num_frames,
        "seconds": record.num_frames / float(record.fps),
        "wall_seconds": round(record.wall_seconds, 3),
        "frames_per_second": round(record.frames_per_second, 2),
        "frames_hash": record.frames_hash,
        **({"drift": record.settings["drift"]} if "drift" in record.settings else {}),
    }


def _describe(execution: Execution, vae_dtype: str | None, channels_last: bool) -> dict[str, Any]:
    """What of the execution decides about the frames, where it is not the plainest."""
    plain = {"attention": "native", "compile": False, "decoder": "vae"}
    used = {name: getattr(execution, name) for name in plain}
    used |= {"vae_dtype": vae_dtype, "channels_last": channels_last}
    plain |= {"vae_dtype": None, "channels_last": False}
    return {name: value for name, value in used.items() if value != plain[name]}


def _drift_watch(fps: int) -> Any:
    from tethercache.evaluation.watch import DriftWatch

    return DriftWatch(fps)


def _parse_vram(text: str) -> int | None:
    """`--vram` in bytes, None for `auto`."""
    if text == "auto":
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 1 <= size * 2**30 < float("inf"):
        raise ValueError(f"--vram ({text}) must be a number of GB, such as 12, 16 or 24, or auto")
    return int(size * 2**30)


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError("give a prompt, or a file of prompts with --prompts, one of the two")
    if file is not None:
        return read_prompts(file)
    assert prompt is not None
    return [check_prompt(prompt)]


def _check_names(jobs: list[Job], overwrite: bool) -> dict[Path, OSError]:
    """Check where videos go.

    Returns:
        What stands in the way of some of several, by their paths: the others can be made; or of
        one that may only have to be completed.
    """
    from tethercache.video import check_recording, unnamed

    folder = jobs[0].path.parent
    if len(jobs) > 1:
        check_folder(folder)
        if not folder.exists():
            return {}
    blocked = {}
    for job in jobs:
        try:
            check_recording(job.path, overwrite=overwrite)
        except OSError as error:
            if len(jobs) == 1 and unnamed(job.path) is None:
                raise
            blocked[job.path] = error
    return blocked


def _quiet_libraries() -> None:
    """Keep the loading bars and hints of diffusers and transformers out of our output."""
    import diffusers
    import transformers

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its download bars stay
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


class _Done(ProgressColumn):
    """Seconds of video done, and pixel frames a second of work."""

    def __init__(self, fps: int) -> None:
        super().__init__()
        self._fps = fps

    def render(self, task: Task) -> Text:
        frames = task.fields["frames"]
        speed = frames / task.elapsed if task.elapsed else 0.0
        return Text(f"{frames / self._fps:.1f} s done, {speed:.1f} frames/s", no_wrap=True)


def _progress(console: Console, chunks: int, fps: int) -> Progress:
    columns: Iterable[ProgressColumn] = (
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=16)
        ),
        BarColumn(bar_width=12),
        TextColumn("{task.completed:.0f}/{task.total:.0f} chunks"),
        _Done(fps),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[drift]}"),
    )
    return Progress(*columns, console=console, transient=True)
