"""Checkpoints: which tensors of a file or folder are meant, and what came with them.

Recognised are
* training states of the Self-Forcing family (`.pt` with `generator`, `generator_ema`), whose names
  may be wrapped in `model.` and in what FSDP, checkpointing and `torch.compile` put there;
* original Wan files (`diffusion_pytorch_model.safetensors`, also in shards with an index);
* diffusers folders, of the transformer alone or of a pipeline;
* folders with one checkpoint of any kind.

Whatever belongs to a weight is joined with it (`joined`): scales of 8-bit formats, adapters beside
the layers that they were trained on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tethercache.arguments import number, whole_number
from tethercache.errors import MissingModelError, TetherCacheError, WrongModelError
from tethercache.foreign import first, read_json, some, weight_map
from tethercache.models.checkpoints.containers import check_number, check_size, read_file
from tethercache.models.checkpoints.joined import with_adapters, with_scales, without_vace
from tethercache.models.checkpoints.packed import Packed, Stored
from tethercache.models.presets import CHECKPOINTS, PREFERENCE


@dataclass(frozen=True)
class Checkpoint:
    """A transformer's weights in whatever format, still on disk.

    Attributes:
        path: the file or folder.
        state: memory-mapped tensors, or how to make them, by their names in the file.
        key: which state dict of the file this is, "" where the file is one state dict.
        hints: the configuration that came with it (metadata, or `config.json` next to it).
        notes: what a user has to know of how it was read.
    """

    path: Path
    state: dict[str, Stored]
    key: str = ""
    hints: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, *, prefer: Sequence[str] = PREFERENCE) -> Checkpoint:
    """Open a checkpoint; its tensors stay on disk, and nothing in it is executed.

    Args:
        path: a file, or a folder in the format of diffusers or of the original Wan, or with one
            checkpoint of another kind.
        prefer: names of state dicts inside a file, the best first. One name alone is a demand;
            otherwise a file that is one state dict will do.

    Raises:
        MissingModelError: if there is nothing.
        DamagedModelError: if it is empty, cut off or not a checkpoint.
        UnsafeModelError: if it holds anything but tensors and plain containers.
        WrongModelError: if it holds no state dict that `prefer` names.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise MissingModelError(f"no checkpoint at {path}")
    folder, files = path.parent, [path]
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        files = _weight_files(folder)
    key, state = "", dict[str, Stored]()
    carried: dict[str, Any] = {}
    layouts: dict[str, Any] = {}
    for file in files:
        contents = read_file(file)
        key, found = _choose(contents.tensors, prefer, file)
        state |= found
        carried |= contents.config
        layouts |= contents.layouts
    state = with_scales(state, layouts, path)
    state, merged = with_adapters(state, path, folder)
    state, left_out = without_vace(state, path)
    hints = _beside(folder / "config.json") | _well_formed(carried)
    return Checkpoint(path, state, key, hints, tuple(filter(None, (merged, left_out))))


def checkpoint_files(folder: Path) -> list[Path]:
    """The files in a folder that look like checkpoints, but for those that safetensors replace."""
    for kinds in ((".safetensors",), CHECKPOINTS):
        if files := sorted(path for path in folder.glob("*") if path.suffix in kinds):
            return files
    return []


def _weight_files(folder: Path) -> list[Path]:
    """The checkpoint of a folder; all files that its index names, if it has one."""
    for index in folder.glob("*.safetensors.index.json"):
        files = [folder / name for name in sorted({*weight_map(index).values()})]
        if missing := [file.name for file in files if not os.path.exists(file)]:
            raise MissingModelError(f"{folder} lacks {some('shards', missing)}")
        return files
    files = checkpoint_files(folder)
    known = [file for file in files if file.name == "diffusion_pytorch_model.safetensors"]
    if len(files) > 1 and not known:
        names = first([file.name for file in files])
        raise WrongModelError(
            f"{folder} holds {len(files)} checkpoints ({names}); name one of them"
        )
    if not files:
        raise MissingModelError(
            f"no weights in {folder}: expected diffusion_pytorch_model.safetensors, or one file "
            f"of {', '.join(CHECKPOINTS)}"
        )
    return known or files


def _choose(contents: object, prefer: Sequence[str], path: Path) -> tuple[str, dict[str, Stored]]:
    """The state dict of a file that is meant, and its name there."""
    if not isinstance(contents, Mapping):
        raise WrongModelError(f"{path} holds a {type(contents).__name__}, not a state dict")
    states = {
        str(key): value
        for key, value in contents.items()
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
    }
    check_number(max(map(len, (contents, *states.values()))), path)
    key = next((key for key in prefer if key in states), "")
    state = {
        str(name): tensor
        for name, tensor in (states[key] if key else contents).items()
        if isinstance(tensor, Tensor | Packed)
    }
    if not key and (not state or len(prefer) == 1):
        wanted = " or ".join(f"`{key}`" for key in prefer)
        found = first(list(states)) or ("a plain state dict" if state else "none")
        raise WrongModelError(f"{path} has no state dict {wanted} (it has: {found})")
    _check_stored(state, path)
    return key, state


def _check_stored(state: Mapping[str, Stored], path: Path) -> None:
    """Refuse tensors that are larger than what the file stores of them.

    A few bytes can stand for a tensor of any size, by strides of zero or as one of many views.
    """
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    strange = [
        name for name, t in tensors.items() if t.layout is not torch.strided or t.is_quantized
    ]
    strange += [name for name, t in tensors.items() if t.device.type != "cpu"]
    if strange:
        raise WrongModelError(f"{path} holds {some('tensors of a foreign kind', strange)}")
    check_size(sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()), path)


def _beside(config: Path) -> dict[str, Any]:
    """What a configuration beside a checkpoint tells, if it is there and of that kind."""
    try:
        return _well_formed(read_json(config))
    except TetherCacheError:
        return {}


def _well_formed(config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a configuration that are used, without those that make no sense."""
    hints: dict[str, Any] = {}
    for name in ("dim", "num_heads", "num_attention_heads", "eps"):
        try:
            if name == "eps":
                hints[name] = float(number(name, config.get(name), 0, 1))
            else:
                hints[name] = whole_number(name, config.get(name), 1)
        except ValueError:
            continue
    return hints
