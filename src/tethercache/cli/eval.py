"""`tethercache eval`: does a video drift, and does it drift less than another?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tethercache.cli.evaluated import Format, Suite, list_metrics, show
from tethercache.cli.failures import FAILED, Debug
from tethercache.evaluation import need
from tethercache.text import one_line

if TYPE_CHECKING:
    from tethercache.evaluation.inputs import Input
    from tethercache.evaluation.options import Options
    from tethercache.evaluation.result import Skipped, VideoResult


def evaluate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES_OR_FOLDERS",
            help="Videos, or folders of videos, of sub-folders and of frames.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A folder of videos to compare with; the same name is a pair."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path(
        "evaluation"
    ),
    every: Annotated[
        int, typer.Option(help="Measure colour, detail and motion in every n-th frame.")
    ] = 2,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N videos, to try something out.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Videos at a time.")] = 1,
    embed: Annotated[
        bool, typer.Option("--embed", help="Also what the picture shows (extra `embed`).")
    ] = False,
    chunk: Annotated[
        int, typer.Option(help="Frames of a generated chunk, for the flicker at its joins.")
    ] = 12,
    first_chunk: Annotated[int, typer.Option(help="Frames of the first chunk.")] = 9,
    image_fps: Annotated[float, typer.Option(help="Frames a second of folders of images.")] = 16.0,
    suite: Annotated[Suite, typer.Option(help="What to evaluate.")] = Suite.DRIFT,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Where the weights of VBench are.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR",
            help='Exit with 1 if a video is so: "colour_difference>12, verdict=drifting".',
        ),
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="What to print.")
    ] = Format.TABLE,
    list_: Annotated[
        bool, typer.Option("--list", help="List the metrics and what they need.")
    ] = False,
    debug: Debug = False,
) -> int:
    """Find out whether videos drift.

    Prints a table and writes results.json, results.csv, report.md and report.html. Finished videos
    are not measured again. Exit status: 1 if a file was skipped or --fail-on holds.
    """
    if list_:
        return list_metrics(format_, suite, weights_dir)
    if not paths:
        raise ValueError("give videos or a folder of videos")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit ({limit}) must be at least 1")
    if jobs < 1:
        raise ValueError(f"--jobs ({jobs}) must be at least 1")
    if suite is Suite.VBENCH_LONG:
        if baseline or fail_on is not None or embed:
            raise ValueError("--baseline, --fail-on and --embed belong to --suite drift")
        need("eval")
        from tethercache.cli.vbench_long import run

        return run(paths, output, weights_dir, format_.value, limit)
    if weights_dir is not None:
        raise ValueError("--weights-dir belongs to --suite vbench-long")
    need("eval")
    if embed:
        need("embed")
        import torch

        torch.set_num_threads(1)  # one small picture at a time is not worth waiting for a busy core

    from tethercache.evaluation.inputs import find_inputs
    from tethercache.evaluation.options import Options
    from tethercache.evaluation.report import prepare_folder
    from tethercache.evaluation.suite import Report, failures, parse_conditions, set_warnings

    options = Options(
        every=every, chunk=chunk, first_chunk=first_chunk, embed=embed, image_fps=image_fps
    )
    conditions = parse_conditions(fail_on, options) if fail_on is not None else []
    if baseline is not None and not baseline.is_dir():
        raise ValueError(f"--baseline ({baseline}) must be a folder")
    found = find_inputs(paths, without=output)
    others = find_inputs([baseline], without=output) if baseline else []
    warnings = []
    if limit is not None and len(found) > limit:
        warnings.append(f"limited to {limit} of {len(found)} videos: to try out, not to report")
        found = found[:limit]
        kept = {each.path.name for each in found}
        others = [each for each in others if each.path.name in kept]
    prepare_folder(output)
    store = output / "finished"
    store.mkdir(parents=True, exist_ok=True)

    console = Console(stderr=True)
    videos, skipped, notes = _measure(found, options, jobs, store, console)
    baselines, more_skipped, more_notes = _measure(others, options, jobs, store, console)
    report = Report(
        videos=videos,
        baseline=baselines,
        skipped=[*skipped, *more_skipped],
        options=options,
        warnings=[*warnings, *notes, *more_notes, *set_warnings([*videos, *baselines])],
        failed=failures(conditions, videos),
    )
    show(report, format_, output)
    return FAILED if report.skipped or report.failed else 0


def _measure(
    inputs: Sequence[Input], options: Options, jobs: int, store: Path, console: Console
) -> tuple[list[VideoResult], list[Skipped], list[str]]:
    """Measure videos with a progress bar; sorts results, skipped files and notes apart."""
    from tethercache.evaluation.result import Skipped
    from tethercache.evaluation.stored import measure_all

    videos: list[VideoResult] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(inputs))
        for outcome in measure_all(inputs, options, jobs=jobs, store=store):
            result = outcome.result
            progress.update(task, advance=1, description=one_line(result.name)[-40:])
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                videos.append(result)
            if outcome.note:
                notes.append(outcome.note)
    return (
        sorted(videos, key=lambda video: (video.name, video.path)),
        sorted(skipped, key=lambda file: (file.name, file.path)),
        sorted(notes),
    )
