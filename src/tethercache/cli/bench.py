"""`tethercache bench`: what memory management costs on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tethercache.bench import CASES, MIN_CHUNKS, default_cases
from tethercache.cli.failures import FAILED, Debug
from tethercache.cli.options import Device, DType
from tethercache.cli.output import quiet_libraries
from tethercache.fit.device import pick_device
from tethercache.fit.execution import ATTENTION, Execution, check_threads, require_compiler
from tethercache.policies import POLICIES

if TYPE_CHECKING:
    from tethercache.bench.report import Report, Row

CHUNKS = 9
_WIDTH = 140


def bench(
    case: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            "-c",
            help="What to time: small, block, tiny or 1.3b; may be given several times.",
            show_default="small, block and tiny; 1.3b too on a GPU",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="NAME[:KEY=VALUE,...]",
            help="What is held against windows of the same size; may be given several times.",
            show_default="tethercache",
        ),
    ] = None,
    chunks: Annotated[int, typer.Option(help="Timed chunks of each contestant.")] = CHUNKS,
    device: Device = "auto",
    dtype: Annotated[
        DType | None,
        typer.Option(
            help="Number format.",
            show_default="float32 on a CPU, else bfloat16; 1.3b always bfloat16",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="PyTorch's threads on a CPU.",
            show_default="by the model's size and the number of cores, as for `generate`",
        ),
    ] = None,
    attention: Annotated[
        str,
        typer.Option(
            metavar="|".join(("auto", *ATTENTION)),
            help="Attention backend; auto: by what is installed and what the device can do.",
        ),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the transformer blocks; leaves out `bare`."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the results as JSON, too."),
    ] = None,
    debug: Debug = False,
) -> int:
    """Time cache policies against windows of the same size and against no cache at all.

    All contestants take turns in one process, chunk by chunk, each in the middle of a long video.
    The last line printed is JSON. Exits with 1 if the machine was too noisy to tell.
    """
    policies = policy or ["tethercache"]
    for name in case or ():
        if name not in CASES:
            raise ValueError(f"unknown case `{name}` (known: {', '.join(CASES)})")
    if chunks < MIN_CHUNKS:
        raise ValueError(f"--chunks ({chunks}) must be at least {MIN_CHUNKS}")
    check_threads(threads)
    if output is not None and not output.parent.is_dir():
        raise ValueError(f"--output ({output}) must lie in a folder that exists")
    if output is not None and output.exists() and not output.is_file():
        raise ValueError(f"--output ({output}) must be a file, not a folder or a device")
    Execution(attention=attention, compile=compiled)
    for spec in policies:
        POLICIES.parse(spec)

    import torch

    from tethercache.bench.run import contestants, measure

    contestants(policies)
    place = torch.device(pick_device(device))
    if compiled:
        require_compiler(place)
    quiet_libraries()
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    from tethercache.files import write_atomically

    report = measure(
        {name: CASES[name] for name in case or default_cases(place)},
        policies,
        device=place,
        dtype=None if dtype is None else getattr(torch, dtype.value),
        chunks=chunks,
        threads=threads,
        attention=attention,
        compile_blocks=compiled,
        say=lambda line: progress.print(line, markup=False),
    )
    show(report)
    made = report.as_json()
    if output is not None:
        write_atomically(output, json.dumps(made, indent=1) + "\n")
    print(json.dumps(made))
    return 0 if report.quiet else FAILED


def show(report: Report) -> None:
    """Print the tables, what the caches do in their time, and the verdicts."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _WIDTH)
    for columns in (_TIMES, _RATES):
        table = Table("case", "policy", box=None, pad_edge=False)
        for head in columns:
            table.add_column(head, justify="right", no_wrap=True)
        for row in report.rows:
            table.add_row(row.case, row.policy, *(cell(row) for cell in columns.values()))
        console.print(table)
        console.print()
    for row in report.rows:
        if row.policy != "control":
            parts = ", ".join(f"{name} {_number(ms)}" for name, ms in row.cache_ms.items())
            console.print(f"{row.case}: cache of {row.policy}, ms: {parts}", markup=False)
    console.print()
    for verdict in report.verdicts:
        console.print("[green]yes[/]" if verdict.met else "[red]no [/]", end=" ")
        console.print(str(verdict), markup=False)
    if not report.quiet:
        console.print("[yellow]not valid: something else was at work; run this again[/]")


def _number(value: float) -> str:
    """Three digits, and all those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _optional(value: float | None) -> str:
    return "" if value is None else _number(value)


_TIMES: dict[str, Callable[[Row], str]] = {
    "ms/chunk": lambda row: _number(row.wall_ms),
    "cpu ms": lambda row: _number(row.cpu_ms),
    "spread": lambda row: f"{row.spread:.1%}",
    "transformer": lambda row: _number(row.split_ms["transformer"]),
    "cache": lambda row: _number(row.split_ms["cache"]),
    "waiting": lambda row: _number(row.split_ms["waiting"]),
    "decode": lambda row: _optional(row.decode_ms),
    "/sink [95 %]": lambda row: "" if row.to_sink is None else str(row.to_sink),
    "/fifo": lambda row: "" if row.to_fifo is None else f"{row.to_fifo.median:.3f}",
    "/bare": lambda row: "" if row.to_bare is None else f"{row.to_bare.median:.3f}",
}
_RATES: dict[str, Callable[[Row], str]] = {
    "frames/s": lambda row: _number(row.frames_per_second),
    "with decode": lambda row: _optional(row.frames_per_second_decoded),
    "peak MB": lambda row: _number(row.peak_bytes / 1e6),
    "cache MB": lambda row: _number(row.state_bytes / 1e6),
    "admission MB": lambda row: _optional(
        None if row.admission_bytes is None else row.admission_bytes / 1e6
    ),
    "GFLOP/s": lambda row: _number(row.flops_per_second / 1e9),
    "of peak": lambda row: f"{row.share_of_peak:.0%}",
}
