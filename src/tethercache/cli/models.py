"""`tethercache models`: which models are known, what they are made of, and how to convert one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tethercache.cli.failures import Debug
from tethercache.models import (
    BASE,
    PRESETS,
    SHIPPED,
    HubFile,
    Preset,
    Settings,
    base_lacks,
    find,
    present,
    read_settings,
)
from tethercache.models.presets import PREFERENCE, SHIFT
from tethercache.text import printable

app = typer.Typer(help="Known models, their files, and conversion.", no_args_is_help=True)

WeightsDir = Annotated[
    Path | None,
    typer.Option("--weights-dir", metavar="FOLDER", help="Look here, not in the hub's cache."),
]


class Precision(StrEnum):
    """Number formats that a conversion can write."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def missing_files(preset: Preset, weights_dir: Path | None = None) -> list[str]:
    """Which of a preset's own files are not on this machine; asks nobody."""
    return [str(file) for file in files_of(preset) if present(file, weights_dir) is None]


def files_of(preset: Preset) -> list[HubFile]:
    """The files of a preset that are its own."""
    return [file for file in (preset.transformer, preset.lora) if file is not None]


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
    base = base_lacks(weights_dir)
    for name, preset in PRESETS.items():
        missing = missing_files(preset, weights_dir) + base
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
    model = find(name)
    rows: list[tuple[str, str]] = []
    if model.preset is not None:
        preset = model.preset
        rows += [("model", f"{name}: {preset.summary}"), ("source", preset.source)]
        rows += [("licence", preset.licence)]
        rows += [("note", preset.note)] if preset.note else []
        rows += [("checked", "no: sizes and licence are as public sources state them")]
        for file in files_of(preset):
            rows.append(("file", f"{file} ({_size(file)}): {_where(file, weights_dir)}"))
        lacking = base_lacks(weights_dir)
        state = f"missing {', '.join(lacking)}" if lacking else "present"
        rows.append(("base", f"{BASE} (VAE, text encoder, tokenizer): {state}"))
    elif model.path is not None:
        rows.append(("model", str(model.path)))
        rows += _describe(model.path)
    else:
        origin = str(model.file) if model.file else model.repository
        rows.append(("model", f"{origin} on the hub; nothing is known of it before it is fetched"))
    if model.settings is not None:
        rows += _settings_rows(model.settings, model.policy)
    if model.path is not None:
        rows += _words(model.path / "tokenizer" / "tokenizer.json")
    for key, value in rows:
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
        Precision | None, typer.Option(help="Number format.", show_default="as stored")
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


def _settings_rows(settings: Settings, policy: str) -> list[tuple[str, str]]:
    return [
        (
            "settings",
            f"chunks of {settings.chunk_size}, window {settings.window}, {settings.width}x"
            f"{settings.height} at {settings.fps} fps, noise levels "
            f"{', '.join(f'{sigma:g}' for sigma in settings.sigmas)} before the shift",
        ),
        ("policy", f"{policy} unless --policy says otherwise, at most {settings.window} frames"),
    ]


def _describe(path: Path) -> list[tuple[str, str]]:
    from tethercache.fit.sizes import transformer_parameters
    from tethercache.models.checkpoints.describe import describe
    from tethercache.models.checkpoints.read import read_checkpoint

    checkpoint = read_checkpoint(path)
    config = describe(checkpoint)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in checkpoint.state.values()})
    return [
        (
            "weights",
            f"{transformer_parameters(config, path) / 1e6:.1f} M parameters in {', '.join(dtypes)}"
            + (f", state dict `{checkpoint.key}`" if checkpoint.key else ""),
        ),
        (
            "sizes",
            f"{config['num_layers']} layers, width {width}, {config['num_attention_heads']} heads, "
            f"feed-forward {config['ffn_dim']}, text {config['text_dim']}",
        ),
    ]


def _words(tokenizer: Path) -> list[tuple[str, str]]:
    """What a model can be asked for, if that is a list of words."""
    from tethercache.conditioning import known_words

    words = known_words(tokenizer) if tokenizer.is_file() else []
    return [("words", f"{len(words)}, and no others: {' '.join(words)}")] if words else []


def _where(file: HubFile, weights_dir: Path | None) -> str:
    found = present(file, weights_dir)
    return "missing" if found is None else f"present, {found}"


def _size(file: HubFile) -> str:
    return f"{file.size / 1e9:.2f} GB" if file.size else "size not known"
