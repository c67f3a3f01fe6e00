"""`tethercache generate`: prompts in, mp4 files with records out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tethercache.cli import options as given
from tethercache.cli.failures import Debug, report
from tethercache.cli.output import quiet_libraries
from tethercache.cli.progress import finish, say_how, say_made, showing, summary
from tethercache.cli.stop import leaves
from tethercache.prompts import check_prompt, check_text, read_prompts
from tethercache.render import check, name_videos, prepare
from tethercache.render.batch import Job, check_names, check_room, made_before
from tethercache.request import Lora, VideoRequest

if TYPE_CHECKING:
    from tethercache.render import Order


def generate(
    prompt: given.Prompt = None,
    prompts: given.Prompts = None,
    seconds: given.Seconds = VideoRequest.seconds,
    latent_frames: given.LatentFrames = VideoRequest.latent_frames,
    policy: given.Policy = None,
    model: given.Model = VideoRequest.model,
    weights_dir: given.WeightsDir = None,
    lora: given.Loras = None,
    prefix: given.Prefix = None,
    seed: given.Seed = VideoRequest.seed,
    num_samples: given.NumSamples = 1,
    output: given.Output = None,
    device: given.Device = VideoRequest.device,
    dtype: given.Dtype = None,
    vram: given.Vram = str(VideoRequest.vram),
    attention: given.Attention = VideoRequest.attention,
    compiled: given.Compiled = VideoRequest.compile,
    overlap: given.Overlap = VideoRequest.overlap,
    decoder: given.Decoder = VideoRequest.decoder,
    threads: given.Threads = VideoRequest.threads,
    vae_dtype: given.VaeDtype = None,
    channels_last: given.ChannelsLast = VideoRequest.channels_last,
    crf: given.Crf = VideoRequest.crf,
    watch_drift: given.WatchDrift = VideoRequest.watch_drift,
    overwrite: given.Overwrite = False,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Generate long videos from prompts.

    Frames are written as they are made: the unfinished video is NAME.partial.mp4 and can be
    watched. Beside each video stands NAME.json with all that is needed to make it again.
    """
    # everything that can be wrong is found out before the weights are loaded, and what needs no
    # library before the libraries
    for path in filter(None, (prompts, output)):
        check_text(str(path), "an argument")
    texts = _read_prompts(prompt, prompts)
    request = VideoRequest(
        prompt=texts[0],
        seconds=seconds,
        latent_frames=latent_frames,
        policy=policy,
        model=model,
        weights_dir=_text(weights_dir),
        loras=tuple(map(Lora.parse, lora or ())),
        prefix=_text(prefix),
        seed=seed,
        device=device,
        dtype=dtype and dtype.value,
        vae_dtype=vae_dtype and vae_dtype.value,
        vram=vram,
        attention=attention,
        compile=compiled,
        overlap=overlap,
        decoder=decoder,
        channels_last=channels_last,
        threads=threads,
        crf=crf,
        watch_drift=watch_drift,
    )
    jobs = name_videos(request, texts, num_samples, output)
    blocked = check_names(jobs, overwrite=overwrite)
    checked = check(request)
    quiet_libraries()
    order = prepare(checked)
    kept = made_before(jobs, order, blocked, overwrite=overwrite)
    failed = [path for path in blocked if path not in kept]
    for path in failed:
        if len(jobs) == 1:
            raise blocked[path]
        report(blocked[path])
    left = [job for job in jobs if job.path not in {*blocked, *kept}]
    made = _make(left, order, failed, overwrite, several=len(jobs) > 1) if left else []
    finish(made, kept, failed, as_json=as_json)


def _make(
    jobs: Sequence[Job], order: Order, failed: list[Path], overwrite: bool, *, several: bool
) -> list[dict[str, Any]]:
    """Make videos, and say what was made; those of several that fail are added to `failed`."""
    from tethercache.render import load
    from tethercache.video import command_line

    check_room(jobs, order)
    if several:
        jobs[0].path.parent.mkdir(parents=True, exist_ok=True)
    loaded = load(order, [job.request.prompt for job in jobs])
    console, made = Console(stderr=True), []
    say_how(console, loaded)
    for job in jobs:
        try:
            with showing(console, job.path, loaded) as show:
                record = loaded.make(
                    job.request,
                    job.path,
                    overwrite=overwrite,
                    command=command_line(keep=job.request.prompt),
                    told=show,
                )
        except Exception as error:
            if not several:
                raise
            report(error, where=str(job.path))  # the next one may well be made
            failed.append(job.path)
        else:
            made.append(summary(job, record))
            say_made(made[-1], order.policy)
        leaves("")
    return made


def _read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError("give a prompt, or a file of prompts with --prompts, one of the two")
    if file is not None:
        return read_prompts(file)
    assert prompt is not None
    return [check_prompt(prompt)]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
