"""`tethercache compare`: policies, the same prompts, the same noise, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tethercache.cli import options as given
from tethercache.cli.failures import Debug
from tethercache.cli.output import quiet_libraries
from tethercache.policies import POLICIES
from tethercache.prompts import check_text
from tethercache.request import VideoRequest
from tethercache.text import printable

if TYPE_CHECKING:
    from tethercache.comparison import Plan, Subject, Unit
    from tethercache.render import Loaded

Policies = Annotated[
    list[str],
    typer.Argument(
        metavar="POLICY...",
        help="Specs of policies; the others are compared with the first.",
        autocompletion=lambda incomplete: [n for n in POLICIES if n.startswith(incomplete)],
    ),
]
Scenes = Annotated[
    int | None,
    typer.Option(
        help="So many scenes of the rendered world, which the oracle reads, instead of prompts.",
        show_default="8, without --prompts",
    ),
]
Turning = Annotated[
    bool, typer.Option("--turning", help="Scenes whose camera turns, so that places come back.")
]
Seeds = Annotated[int, typer.Option(help="Videos of each prompt and policy.")]
SideBySide = Annotated[
    bool, typer.Option(help="Also make videos that show the policies beside each other.")
]
Folder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where videos and the report go. What is there already is not made again.",
    ),
]


def compare(
    policies: Policies,
    prompts: given.Prompts = None,
    scenes: Scenes = None,
    turning: Turning = False,
    seeds: Seeds = 1,
    seconds: given.Seconds = VideoRequest.seconds,
    latent_frames: given.LatentFrames = VideoRequest.latent_frames,
    model: given.Model = VideoRequest.model,
    weights_dir: given.WeightsDir = None,
    seed: given.Seed = VideoRequest.seed,
    output: Folder = Path("comparison"),
    device: given.Device = VideoRequest.device,
    dtype: given.Dtype = None,
    vram: given.Vram = str(VideoRequest.vram),
    threads: given.Threads = VideoRequest.threads,
    side_by_side: SideBySide = True,
    as_json: given.AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare policies: the same prompts, the same seeds, the same noise.

    Every video is kept, with its record and what was read of it. If the comparison breaks off, the
    same command goes on; with more policies, prompts or seeds, only what is new is made.
    """
    from tethercache.comparison import Plan
    from tethercache.comparison.comparing import write
    from tethercache.comparison.summary import table
    from tethercache.evaluation import need
    from tethercache.evaluation.report import terminal_table

    for text in (*policies, str(output), str(prompts or "")):
        check_text(text, "an argument")
    subjects = _subjects(prompts, scenes, turning=turning)
    request = VideoRequest(
        prompt=subjects[0].prompt,
        seconds=seconds,
        latent_frames=latent_frames,
        model=model,
        weights_dir=None if weights_dir is None else str(weights_dir),
        seed=seed,
        device=device,
        dtype=dtype and dtype.value,
        vram=vram,
        threads=threads,
    )
    plan = Plan(request, tuple(policies), tuple(subjects), seeds)
    need("eval")
    quiet_libraries()
    console = Console(stderr=True)
    _run(plan, output, console)
    summary = write(plan, output, videos=side_by_side)
    found = table(summary)
    console.print(found.title, style="bold", highlight=False)
    console.print(terminal_table(found))
    count = sum(summary.videos.values())
    print(printable(f"{output / 'index.html'}: {count} videos compared, open it in a browser"))
    if as_json:
        print(json.dumps(summary.to_dict()))


def _subjects(prompts: Path | None, scenes: int | None, *, turning: bool) -> list[Subject]:
    from tethercache.comparison import of_prompts, of_scenes
    from tethercache.prompts import read_prompts

    if prompts is None:
        return of_scenes(8 if scenes is None else scenes, turning=turning)
    if scenes is not None or turning:
        raise ValueError("give --prompts or --scenes, not both")
    return of_prompts(read_prompts(prompts))


def _run(plan: Plan, folder: Path, console: Console) -> None:
    """Make what is missing, with a line of progress."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    from tethercache.comparison import run

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, Left(compact=True), console=console, transient=True) as progress:
        task = progress.add_task("comparing", total=None)

        def begun(loaded: Loaded, left: int) -> None:
            progress.update(task, total=left)

        def named(unit: Unit) -> None:
            progress.update(task, description=printable(f"{unit.policy}, {unit.path.stem}")[:60])

        for _ in run(plan, folder, begun=begun, told=lambda unit, _: named(unit)):
            progress.advance(task)
