"""The flags that ask for a video, or for a way to compute it; `VideoRequest` has their defaults."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tethercache.fit.execution import ATTENTION
from tethercache.models import PRESETS, SHIPPED
from tethercache.policies import POLICIES
from tethercache.request import DEFAULT_SECONDS

_SPEED = "Speed"


class DType(StrEnum):
    """Number formats of weights and cache."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _policies(incomplete: str) -> list[tuple[str, str]]:
    """What completes the name of a policy, also behind a `+`; the shell shows the summaries."""
    before, plus, part = incomplete.rpartition("+")
    start = before + plus + " " * (len(part) - len(part.lstrip()))
    found = [name for name in POLICIES if POLICIES[name].wraps == bool(plus)]
    return [
        (start + name, POLICIES[name].summary) for name in found if name.startswith(part.strip())
    ]


def _models(incomplete: str) -> list[tuple[str, str]]:
    """What completes the name of a model."""
    known = {name: "the shipped model" for name in SHIPPED}
    known |= {name: preset.summary for name, preset in PRESETS.items()}
    return [(name, what) for name, what in known.items() if name.startswith(incomplete)]


Prompt = Annotated[str | None, typer.Argument(help="What the video shows.", show_default=False)]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A text file with one prompt a line, instead; - is standard input. Lines that begin "
        "with # are comments.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", "-s", help="Length.", show_default=f"{DEFAULT_SECONDS:g}"),
]
LatentFrames = Annotated[
    int | None, typer.Option(help="Length in latent frames n, instead: 4 n - 3 video frames.")
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="NAME[:KEY=VALUE,...]",
        help="What the model remembers; see `tethercache policies`.",
        show_default="tethercache, in a window that suits the model",
        autocompletion=_policies,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A name of `tethercache models list`, a folder, a checkpoint or a hub id.",
        autocompletion=_models,
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Take the model's files from here, not from the hub's cache."
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE[:SCALE]", help="A LoRA to merge; may be given several times."),
]
Prefix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A clip or picture that the video starts with, frame for frame."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
NumSamples = Annotated[int, typer.Option(help="Videos for each prompt.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The mp4 to write, or a folder that is there; with several videos, a folder. What is "
        "there of them already is not made again.",
        show_default="named by the prompt",
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...; auto picks.")]
Dtype = Annotated[
    DType | None,
    typer.Option(
        help="Number format.", show_default="float32 on a CPU where it fits, else bfloat16"
    ),
]
Vram = Annotated[
    str,
    typer.Option(metavar="12|16|24|auto", help="GB to stay within; auto: what is free."),
]
Attention = Annotated[
    str,
    typer.Option(
        metavar="|".join(("auto", *ATTENTION)),
        help="Attention backend; auto: by what is installed and what the device can do.",
        rich_help_panel=_SPEED,
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile transformer and decoder first: minutes once, for long videos.",
        rich_help_panel=_SPEED,
    ),
]
Overlap = Annotated[
    str,
    typer.Option(
        metavar="auto|on|off",
        help="Decode a chunk while the next is denoised; auto: on a GPU, and on a CPU that has at "
        "least twice as many cores as --threads. The frames stay the same.",
        rich_help_panel=_SPEED,
    ),
]
Decoder = Annotated[
    str,
    typer.Option(
        metavar="vae|preview",
        help="preview: decode the first chunk only; then one colour for each latent cell (8x8 "
        "pixels of 4 frames), a rough picture at next to no cost.",
        rich_help_panel=_SPEED,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="PyTorch's threads on a CPU; a video's record says how many it was made with.",
        show_default="by the model's size and the number of cores",
        rich_help_panel=_SPEED,
    ),
]
VaeDtype = Annotated[
    DType | None,
    typer.Option(
        help="Number format of the VAE.", show_default="as --dtype", rich_help_panel=_SPEED
    ),
]
ChannelsLast = Annotated[
    bool,
    typer.Option(
        "--channels-last",
        help="Memory layout of the VAE's convolutions, faster on some GPUs.",
        rich_help_panel=_SPEED,
    ),
]
Crf = Annotated[
    int, typer.Option(min=1, max=51, help="Quality of the mp4: 1 is the best, 51 the smallest.")
]
WatchDrift = Annotated[
    bool, typer.Option("--watch-drift", help="Say while it is made how far the video drifts.")
]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="Write down what the cache does, into NAME.trace.jsonl.gz; see `tethercache trace`.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing files, unfinished videos included.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON line about the videos last.")]
