"""`tethercache generate`: prompts in, mp4 files with sidecars out."""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tethercache.cli.failures import Debug
from tethercache.models import Settings, fingerprint, read_settings, resolve
from tethercache.policies import POLICIES

DEFAULT_SECONDS = 10.0


class DType(str, Enum):
    """Number formats of weights and cache."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Job:
    """One video to make."""

    prompt: str
    sample: int
    path: Path


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What the video shows.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="A text file with one prompt a line, instead."
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
        str,
        typer.Option(
            "--policy",
            "-p",
            metavar="NAME[:KEY=VALUE,...]",
            help="What the model remembers; see `tethercache policies`.",
        ),
    ] = "tethercache",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Shipped model, local folder or hub id.")
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    num_samples: Annotated[int, typer.Option(help="Videos for each prompt.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The mp4 to write; with several videos, a folder.",
            show_default="named by the prompt",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...; auto picks.")
    ] = "auto",
    dtype: Annotated[
        DType | None,
        typer.Option(help="Number format.", show_default="float32 on CPU, else bfloat16"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line about the videos last.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Generate long videos from prompts.

    Frames are written as they are made: the unfinished video is NAME.partial.mp4 and can be
    watched. Beside each video stands NAME.json with all that is needed to make it again.
    """
    from tethercache.pipeline import plan_video
    from tethercache.video.writer import check_target

    texts = _read_prompts(prompt, prompts)
    if num_samples < 1:
        raise ValueError(f"--num-samples ({num_samples}) must be at least 1")
    if seconds is not None and latent_frames is not None:
        raise ValueError("give --seconds or --latent-frames, not both")
    if seconds is None and latent_frames is None:
        seconds = DEFAULT_SECONDS
    length: dict[str, Any] = {"num_seconds": seconds, "num_latent_frames": latent_frames}

    # everything that can be wrong is found out before the weights are loaded
    chosen = POLICIES.parse(policy)
    folder = resolve(model)
    settings = read_settings(folder) if Path(folder).is_dir() else None
    if settings is not None:
        plan_video(settings, chosen, **length)
    place = _device(device)
    jobs = _jobs(texts, num_samples, output)
    for job in jobs:
        check_target(job.path, overwrite=overwrite)

    import torch

    from tethercache.pipeline import CausalVideoPipeline

    _quiet_libraries()
    number_format = (dtype or (DType.FLOAT32 if place == "cpu" else DType.BFLOAT16)).value
    pipe = CausalVideoPipeline.from_pretrained(folder, torch_dtype=getattr(torch, number_format))
    pipe.to(place)
    plan = plan_video(pipe.settings, chosen, **length)
    record = _Record(
        model=model,
        model_hash=fingerprint(folder) if settings is not None else "",
        policy=POLICIES.spec(chosen, full=True),
        seed=seed,
        device=str(place),
        dtype=number_format,
        settings=pipe.settings,
    )
    console = Console(stderr=True)
    console.print(
        f"policy [bold]{POLICIES.spec(chosen)}[/] · model {model} · seed {seed} · {place} "
        f"{number_format} · {plan.num_frames} frames at {pipe.settings.fps} fps",
        highlight=False,
        soft_wrap=True,
    )
    made = []
    for job in jobs:
        with _progress(console, plan.chunks.num_chunks, pipe.settings.fps) as progress:
            summary = _make(pipe, job, chosen, plan, length, record, overwrite, progress)
        made.append(summary)
        print(
            f"{summary['path']}: {summary['num_frames']} frames, {summary['seconds']:g} s of video "
            f"in {summary['wall_seconds']:.1f} s, {summary['frames_per_second']:.1f} frames/s, "
            f"policy {POLICIES.spec(chosen)}"
        )
    if as_json:
        print(json.dumps({"videos": made}))


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


def _make(
    pipe: Any,
    job: Job,
    policy: Any,
    plan: Any,
    length: dict[str, Any],
    record: _Record,
    overwrite: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Generate one video and its sidecar; returns the summary of the JSON line."""
    from tethercache.video import FrameHasher, Sidecar, VideoWriter, write_sidecar

    settings = record.settings
    task = progress.add_task(job.path.name, total=plan.chunks.num_chunks, frames=0)
    hasher = FrameHasher()
    started = time.perf_counter()
    with VideoWriter(
        job.path,
        fps=settings.fps,
        width=settings.width,
        height=settings.height,
        overwrite=overwrite,
    ) as writer:
        chunks = pipe.stream(
            job.prompt, policy=policy, seed=record.seed, samples=[job.sample], **length
        )
        for chunk in chunks:
            writer.write(chunk[0])
            hasher.update(chunk[0])
            progress.update(task, advance=1, frames=writer.num_frames)
    wall = time.perf_counter() - started
    write_sidecar(
        job.path,
        Sidecar(
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
            chunk_hashes=hasher.chunk_hashes,
            frames_hash=hasher.frames_hash,
            wall_seconds=wall,
            frames_per_second=plan.num_frames / wall,
            settings={"sigmas": settings.sigmas, "context_noise": settings.context_noise},
            command=tuple(sys.argv),
        ),
    )
    return {
        "path": str(job.path),
        "prompt": job.prompt,
        "sample": job.sample,
        "seed": record.seed,
        "policy": record.policy,
        "num_frames": plan.num_frames,
        "seconds": plan.num_frames / settings.fps,
        "wall_seconds": round(wall, 3),
        "frames_per_second": round(plan.num_frames / wall, 2),
        "frames_hash": hasher.frames_hash,
    }


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError("give a prompt, or a file of prompts with --prompts, one of the two")
    if file is None:
        assert prompt is not None
        if not prompt.strip():
            raise ValueError("the prompt must not be empty")
        return [prompt]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the prompts in {file}: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{file} has no prompts")
    return texts


def _jobs(prompts: list[str], num_samples: int, output: Path | None) -> list[Job]:
    """Name every video; one video has the name given, several go into a folder."""
    if len(prompts) * num_samples == 1:
        return [Job(prompts[0], 0, output or Path(f"{slug(prompts[0])}.mp4"))]
    folder = output or Path("videos")
    if folder.suffix == ".mp4":
        raise ValueError(f"with several videos --output ({folder}) must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return [
        Job(text, sample, folder / f"{index:03d}-{slug(text)}-{sample}.mp4")
        for index, text in enumerate(prompts)
        for sample in range(num_samples)
    ]


def slug(prompt: str, length: int = 60) -> str:
    """A file name for a prompt: ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:length].strip("-") or "video"


def _device(name: str) -> str:
    """Check a device name, or choose the best one for `auto`."""
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return "cpu" if accelerator is None else accelerator.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from None
    return name


def _quiet_libraries() -> None:
    """Keep the loading bars and hints of diffusers and transformers out of our output."""
    import diffusers
    import transformers

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
        return Text(f"{frames / self._fps:.1f} s of video · {speed:.1f} frames/s")


def _progress(console: Console, chunks: int, fps: int) -> Progress:
    columns: Iterable[ProgressColumn] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("chunk {task.completed:.0f}/{task.total:.0f} ·"),
        _Done(fps),
        TextColumn("·"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    return Progress(*columns, console=console, transient=True)
