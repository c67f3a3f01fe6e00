"""`tethercache generate`: prompts in, mp4 files with records out."""

from __future__ import annotations

from pathlib import Path

from tethercache.cli import options as given
from tethercache.cli import safety
from tethercache.cli.failures import Debug
from tethercache.cli.making import carry_out
from tethercache.cli.script import ScriptFile, Then, read
from tethercache.prompts import check_text
from tethercache.render import name_videos
from tethercache.render.batch import Resume
from tethercache.request import Lora, VideoRequest


def generate(
    prompt: given.Prompt = None,
    prompts: given.Prompts = None,
    script: ScriptFile = None,
    then: Then = None,
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
    guard: safety.Guard = VideoRequest.guard,
    trace: given.Trace = VideoRequest.trace,
    keep_snapshots: safety.KeepSnapshots = VideoRequest.keep_snapshots,
    snapshot_every: safety.SnapshotEvery = None,
    snapshot_budget: safety.SnapshotBudget = VideoRequest.snapshot_budget,
    resume: safety.Resume = False,
    resume_anyway: safety.ResumeAnyway = False,
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
    for path in filter(None, (prompts, script, output)):
        check_text(str(path), "an argument")
    asked = read(prompt, prompts, script, then, seconds, latent_frames)
    request = VideoRequest(
        prompt=asked.prompts[0],
        then=asked.then,
        seconds=asked.seconds,
        latent_frames=asked.latent_frames,
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
        guard=guard,
        trace=trace,
        keep_snapshots=keep_snapshots,
        snapshot_every=snapshot_every,
        snapshot_budget=snapshot_budget,
    )
    jobs = name_videos(request, asked.prompts, num_samples, output)
    carry_out(
        jobs,
        overwrite=overwrite,
        resume=Resume.ANYWAY if resume_anyway else Resume.YES if resume else Resume.NO,
        as_json=as_json,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
