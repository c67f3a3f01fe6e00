"""`tethercache models`: which models are known, what they are made of, and how to convert one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tethercache.cli.failures import Debug
from tethercache.cli.model_rows import rows
from tethercache.cli.options import DType
from tethercache.models import (
    PRESETS,
    SHIPPED,
    base_lacks,
    find,
    preset_lacks,
    read_settings,
)
from tethercache.models.presets import PREFERENCE, SHIFT
from tethercache.text import printable

app = typer.Typer(help="Known models, their files, and conversion.", no_args_is_help=True)

WeightsDir = Annotated[
    Path | None,
    typer.Option("--weights-dir", metavar="FOLDER", help="Look here, not in the hub's cache."),
]


@app.command("list")
def list_models(weights_dir: WeightsDir = None, debug: Debug = False) -> None:
    """List the known models and whether their files are here."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in ("chunk", "window", "files", "licence", "what"):
        table.add_column(column)
    for name, folder in SHIPPED.items():
        here = (folder / "model_index.json").is_file()
        settings = read_settings(folder) if here else None
        table.add_row(
            f"[bold]{name}",
            str(settings.chunk_size) if settings else "",
            str(settings.window) if settings else "",
            "shipped" if here else "not in this build",
            "Apache-2.0",
            "the small model that comes with the package",
        )
    for name, preset in PRESETS.items():
        missing = preset_lacks(preset, weights_dir) + base_lacks(weights_dir, preset.base)
        settings = preset.settings
        table.add_row(
            f"[bold]{name}",
            str(settings.chunk_size),
            str(settings.window),
            f"{len(missing)} missing" if missing else "present",
            preset.licence,
            preset.summary,
        )
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A known model, a folder or a checkpoint.")],
    weights_dir: WeightsDir = None,
    debug: Debug = False,
) -> None:
    """Show what a model is made of, where each file comes from and what is missing."""
    console = Console(highlight=False, soft_wrap=True)
    for key, value in rows(find(name), weights_dir):
        console.print(f"[bold]{key:9}[/] {escape(printable(value))}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint, or a folder of Wan or diffusers.")],
    target: Annotated[Path, typer.Argument(help="The folder to make.")],
    like: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Take the settings from a known model."),
    ] = None,
    dtype: Annotated[
        DType | None, typer.Option(help="Number format.", show_default="as stored")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Which state dict of a training state.", show_default="generator_ema, generator"
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a checkpoint as a folder that --model takes, its transformer in diffusers' format."""
    if like is not None and like not in PRESETS:
        raise ValueError(f"--like ({like}) must be one of: {', '.join(PRESETS)}")
    preset = PRESETS[like] if like is not None else None

    import torch

    from tethercache.models.checkpoints.convert import convert as convert_model

    made = convert_model(
        source,
        target,
        settings=preset.settings if preset is not None else None,
        dtype=getattr(torch, dtype.value) if dtype is not None else None,
        prefer=[key] if key else (preset.prefer if preset is not None else PREFERENCE),
        shift=preset.shift if preset is not None else SHIFT,
    )
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    print(printable(f"{made}: {size / 1e9:.2f} GB; use it with --model {made}"))
