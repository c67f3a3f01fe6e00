"""`tethercache doctor`: what is installed, what is here, and what this machine can run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tethercache.cli.failures import Debug
from tethercache.evaluation.vbench.weights import WEIGHTS, missing_weights
from tethercache.fit import Machine, free_memory, pick_device
from tethercache.models import BASES, PRESETS, SHIPPED, base_lacks, preset_lacks
from tethercache.policies import POLICIES
from tethercache.software import NOT_INSTALLED, versions
from tethercache.text import printable

_LIBRARIES = ("torch", "diffusers", "transformers", "huggingface_hub", "safetensors", "av", "peft")
_HEAD_DIM = 128  # of every Wan, which every preset is a fine-tuning of


def doctor(
    weights_dir: Annotated[
        Path | None,
        typer.Option(help="Also say which files of VBench are missing in this folder."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what is installed, which models are here and what this machine can run."""
    console = Console(highlight=False, soft_wrap=True)

    def row(key: str, value: str) -> None:
        console.print(f"[bold]{key:10}[/] {escape(printable(value))}")

    found = versions(*_LIBRARIES)
    row("versions", f"tethercache {found.pop('tethercache')}, Python {found.pop('python')}")
    row("", ", ".join(f"{name} {v}" for name, v in found.items() if v != NOT_INSTALLED))
    if found["peft"] == NOT_INSTALLED:
        row("", "peft is not installed: --lora and the model longlive need it")
    device = pick_device("auto")
    free, total = free_memory(device)
    row("device", f"{_device_name(device)}, {_gb(free)} of {_gb(total)} memory free")
    disk = shutil.disk_usage(".")
    row("disk", f"{disk.free / 1e9:.1f} GB free here")
    row("attention", _attention(device))
    for name, folder in SHIPPED.items():
        here = (folder / "model_index.json").is_file()
        row("model", f"{name}: {'present' if here else f'missing, expected in {folder}'}")
    for name, preset in PRESETS.items():
        row("model", f"{name}: {_state(preset_lacks(preset))}")
    for base in BASES.values():
        borrowers = ", ".join(name for name, preset in PRESETS.items() if preset.base == base)
        row("base", f"{base}, for {borrowers}: {_state(base_lacks(base=base))}")
    for line in _abilities(device, free):
        row("can run", line)
    if weights_dir is not None:
        lacking = missing_weights(weights_dir)
        for name in WEIGHTS:
            row("vbench", f"{name}: {'missing' if lacking.get(name) else 'all files present'}")
            for weight in lacking.get(name, []):
                row("", f"  {weight.path} ({weight.purpose}; from {weight.origin})")


def _abilities(device: str, free: int | None) -> list[str]:
    """What of the presets fits into the free memory, by arithmetic."""
    from tethercache.fit.choice import Wishes, fastest
    from tethercache.fit.memory import sizes_of

    lines = []
    for name, preset in PRESETS.items():
        policy = POLICIES.parse(preset.policy)
        placement, fits = fastest(sizes_of(preset), policy, Machine(device), Wishes(), free or 0)
        verdict = "not known" if free is None else ("yes" if fits else "no")
        needs = f"in {placement.dtype} it needs {placement.estimate}"
        lines.append(f"{name} with {preset.policy}: {verdict}, {needs}")
    return lines


def _device_name(device: str) -> str:
    import torch

    from tethercache.fit.execution import cores

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({cores()} cores)" if device == "cpu" else device


def _attention(device: str) -> str:
    """The attention backends that work here for Wan's heads, and which one `auto` takes."""
    import torch

    from tethercache.fit.execution import usable_attention

    usable = usable_attention(device, getattr(torch, Machine(device).formats[0]), _HEAD_DIM)
    return f"{', '.join(usable)}; auto takes {usable[0]} (for heads of {_HEAD_DIM} channels)"


def _state(missing: list[str]) -> str:
    return f"missing {', '.join(missing)}" if missing else "present"


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
