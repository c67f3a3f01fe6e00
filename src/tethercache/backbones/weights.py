"""Checkpoint formats: weights as people publish them, to diffusers' `WanTransformer3DModel`.

One path serves them all. A file or folder is recognised by its content, its parameter names become
those of diffusers (`docs/reference.md`, section 11), the model's sizes are read off its tensors,
and the tensors are handed to a model without weights. They stay memory-mapped until the model is to
compute (`alignment`), and nothing is ever unpickled but tensors.

Recognised are
* training states of the Self-Forcing family (`.pt` with `generator`, `generator_ema`), whose names
  may be wrapped in `model.` and in what FSDP, checkpointing and `torch.compile` put there;
* original Wan files (`diffusion_pytorch_model.safetensors`, also in shards with an index);
* diffusers folders, of the transformer alone or of a pipeline.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tethercache.alignment import align
from tethercache.errors import (
    DamagedModelError,
    MissingModelError,
    TetherCacheError,
    UnsafeModelError,
    WrongModelError,
)

PREFERENCE = ("generator_ema", "generator", "model", "state_dict")
"""Which state dict of a training state is meant, first one present; EMA is what papers report."""

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_OUTER = ("model.diffusion_model.", "diffusion_model.", "model.")

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
        (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
        (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
        (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
        (r"^time_projection\.1\.", "condition_embedder.time_proj."),
        (r"^head\.modulation$", "scale_shift_table"),
        (r"^head\.head\.", "proj_out."),
        (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
        (r"^(blocks\.\d+\.ffn)\.0\.", r"\1.net.0.proj."),
        (r"^(blocks\.\d+\.ffn)\.2\.", r"\1.net.2."),
        (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.self_attn\.", r"\1.attn1."),
        (r"^(blocks\.\d+)\.cross_attn\.", r"\1.attn2."),
        (r"^(blocks\.\d+\.attn[12])\.([qkv])\.", r"\1.to_\2."),
        (r"^(blocks\.\d+\.attn[12])\.o\.", r"\1.to_out.0."),
    )
)

_HEADS = {1536: 12, 3072: 24, 5120: 40}
"""Heads of the published Wan widths, 128 channels each; the tensors alone do not tell."""

# what damaged zip archives, pickles and tensors make torch.load raise
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    MemoryError,
    pickle.UnpicklingError,
)


def diffusers_name(name: str) -> str:
    """The diffusers name of a parameter of the original Wan or Self-Forcing code."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    for outer in _OUTER:
        name = name.removeprefix(outer)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a whole state dict of the original code; tensors are shared, not copied."""
    return {diffusers_name(name): tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A transformer's weights in whatever format, still on disk.

    Attributes:
        path: the file or folder.
        state: memory-mapped tensors by their names in the file.
        key: which state dict of the file this is, "" where the file is one state dict.
        hints: the configuration that came with it (metadata, or `config.json` next to it).
    """

    path: Path
    state: dict[str, Tensor]
    key: str = ""
    hints: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, *, prefer: Sequence[str] = PREFERENCE) -> Checkpoint:
    """Open a checkpoint; its tensors stay on disk, and nothing in it is executed.

    Args:
        path: a file, or a folder in the format of diffusers or of the original Wan.
        prefer: names of state dicts inside a training state, the best first.

    Raises:
        MissingModelError: if there is nothing.
        DamagedModelError: if it is empty, cut off or not a checkpoint.
        UnsafeModelError: if it holds anything but tensors and plain containers.
        WrongModelError: if it holds no state dict that `prefer` names.
    """
    path = Path(path)
    if not path.exists():
        raise MissingModelError(f"no checkpoint at {path}")
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        if (path / "transformer").is_dir():
            folder = path / "transformer"
        state: dict[str, Tensor] = {}
        for file in _weight_files(folder):
            state |= _read_safetensors(file)
        return Checkpoint(path, state, hints=_config_beside(folder))
    kind = _kind(path)
    if kind == "safetensors":
        hints = _config_beside(folder) | _metadata(path)
        return Checkpoint(path, _read_safetensors(path), hints=hints)
    key, state = _choose(_read_pickle(path, mmap=kind == "zip"), prefer, path)
    return Checkpoint(path, state, key, _config_beside(folder))


def describe(checkpoint: Checkpoint, *, heads: int | None = None) -> dict[str, Any]:
    """The `WanTransformer3DModel` configuration of a checkpoint, from the shapes of its tensors.

    Args:
        checkpoint: what `read_checkpoint` returned.
        heads: number of attention heads; None: from the configuration that came with it, or known
            from the width of the published models.

    Raises:
        WrongModelError: if this is no text-to-video Wan transformer, or its heads are unknown.
    """
    where = checkpoint.path
    shapes = {diffusers_name(name): t.shape for name, t in checkpoint.state.items()}
    names = list(shapes)
    if any("lora" in name.lower() for name in names):
        raise WrongModelError(f"{where} is a LoRA, not a whole model; give it with --lora")
    if any(part in name for name in names for part in ("img_emb", "k_img", "add_k_proj")):
        raise WrongModelError(f"{where} is an image-to-video model, which is not supported")
    try:
        width, channels, *patch = shapes["patch_embedding.weight"]
        _, _, _ = patch  # time, rows, columns
        ffn = shapes["blocks.0.ffn.net.0.proj.weight"][0]
        text = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
        freq = shapes["condition_embedder.time_embedder.linear_1.weight"][1]
        out = shapes["proj_out.weight"][0] // math.prod(patch)
    except (KeyError, ValueError, IndexError):
        examples = ", ".join(list(checkpoint.state)[:3]) or "none"
        raise WrongModelError(
            f"{where} is not a Wan transformer: {len(names)} tensors, such as {examples}"
        ) from None
    blocks = {int(name.split(".")[1]) for name in names if re.match(r"blocks\.\d+\.", name)}
    if len(blocks) != max(blocks) + 1:
        raise WrongModelError(f"{where} has {len(blocks)} blocks, the last of number {max(blocks)}")
    hints = checkpoint.hints
    if hints.get("dim", width) != width:
        hints = {}  # of another model that lies in the same folder
    known = heads or hints.get("num_heads") or hints.get("num_attention_heads")
    known = known or _HEADS.get(width)
    if not known or width % int(known):
        raise WrongModelError(
            f"the number of heads of {where} (width {width}) is not known; put the config.json "
            "of the original model next to it"
        )
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": int(known),
        "attention_head_dim": width // int(known),
        "in_channels": channels,
        "out_channels": out,
        "text_dim": text,
        "freq_dim": freq,
        "ffn_dim": ffn,
        "num_layers": max(blocks) + 1,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "eps": float(hints.get("eps", 1e-6)),
    }


def load_transformer(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    prefer: Sequence[str] = PREFERENCE,
) -> WanTransformer3DModel:
    """Load a transformer from any recognised format.

    Tensors that keep their dtype and lie aligned in their file stay memory-mapped, so the file must
    stay where it is while the model is in use; the others are copied one by one. As in diffusers,
    norms, modulations and the time embedding stay in float32 when `dtype` is a smaller one.

    Args:
        path: see `read_checkpoint`.
        dtype: number format of the weights; None: as stored.
        heads: see `describe`.
        prefer: see `read_checkpoint`.

    Raises:
        TetherCacheError: as `read_checkpoint` and `describe`; `WrongModelError` also if tensors
            are missing, unexpected or of another shape, with their numbers and examples.
    """
    transformer = _assemble(path, dtype, heads, prefer)
    align(transformer)
    return transformer


def _assemble(
    path: str | Path, dtype: torch.dtype | None, heads: int | None, prefer: Sequence[str]
) -> WanTransformer3DModel:
    """What `load_transformer` loads, as far as possible still on disk."""
    checkpoint = read_checkpoint(path, prefer=prefer)
    config = describe(checkpoint, heads=heads)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**config)
    # its tables are computed, not stored
    transformer.rope = type(transformer.rope)(
        config["attention_head_dim"], config["patch_size"], transformer.config.rope_max_seq_len
    )
    _check_names(checkpoint, transformer.state_dict())
    state = {}
    for name in list(checkpoint.state):
        tensor = checkpoint.state.pop(name)  # so that no tensor is held twice
        renamed = diffusers_name(name)
        state[renamed] = tensor.to(_dtype_of(renamed, tensor.dtype, dtype))
    transformer.load_state_dict(state, strict=True, assign=True)
    return transformer.eval().requires_grad_(False)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    prefer: Sequence[str] = PREFERENCE,
) -> Path:
    """Write a checkpoint as a transformer folder of diffusers, whole or not at all.

    Args:
        source: see `read_checkpoint`.
        target: the folder to make; it must not exist.
        dtype: see `load_transformer`.
        heads: see `describe`.
        prefer: see `read_checkpoint`.

    Returns:
        The folder, with `config.json` and safetensors files.

    Raises:
        FileExistsError: if `target` exists.
        TetherCacheError: as `load_transformer`, and if the disk has no room.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    if not target.absolute().parent.is_dir():
        raise MissingModelError(f"cannot write {target}: no such folder {target.parent}")
    transformer = _assemble(source, dtype, heads, prefer)
    size = sum(p.numel() * p.element_size() for p in transformer.parameters())
    free = shutil.disk_usage(target.absolute().parent).free
    if free < size:
        raise TetherCacheError(
            f"cannot write {target}: it takes {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        )
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        # one shard is held in memory while it is written
        transformer.save_pretrained(partial, max_shard_size=max(size // 10, 1 << 20))
        for file in partial.iterdir():  # safetensors makes files that only their owner may read
            file.chmod((partial / "config.json").stat().st_mode)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise TetherCacheError(f"cannot write {target}: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _dtype_of(name: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None:
        return stored
    kept = WanTransformer3DModel._keep_in_fp32_modules
    return torch.float32 if any(part in name.split(".") for part in kept) else wanted


def _check_names(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    given = {diffusers_name(name): (name, t) for name, t in checkpoint.state.items()}
    problems = [
        _some("missing", sorted(set(expected) - set(given))),
        _some("unexpected", sorted(given[name][0] for name in set(given) - set(expected))),
        _some(
            "of another shape",
            [
                f"{given[name][0]} {list(given[name][1].shape)} for {list(expected[name].shape)}"
                for name in expected
                if name in given and given[name][1].shape != expected[name].shape
            ],
        ),
        _some(
            "not floating point",
            [name for name, tensor in given.values() if not tensor.is_floating_point()],
        ),
    ]
    if len(given) < len(checkpoint.state):
        problems.append(f"{len(checkpoint.state) - len(given)} given twice")
    if found := "; ".join(filter(None, problems)):
        raise WrongModelError(f"{checkpoint.path} does not fit a Wan transformer: {found}")


def _some(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{more})"


def _kind(path: Path) -> str:
    """Container of a file by its first bytes: `zip`, `pickle` (older PyTorch) or `safetensors`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if size == 0:
        raise DamagedModelError(f"{path} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise DamagedModelError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull`")
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"\x80"):
        return "pickle"
    if head[8:9] == b"{":
        return "safetensors"
    raise DamagedModelError(f"{path} is neither a safetensors nor a PyTorch file, or is damaged")


def _read_pickle(path: Path, *, mmap: bool) -> object:
    try:
        if mmap:
            with zipfile.ZipFile(path) as archive:  # a cut off archive has no directory at its end
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise UnsafeModelError(
                        f"{path} is a TorchScript program, not a state dict; it was not loaded"
                    )
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except UnsafeModelError:
        raise
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        told = " ".join(str(error).split())
        if named := re.search(r"GLOBAL ([\w.]+)", told):
            raise UnsafeModelError(
                f"{path} holds something other than tensors ({named[1]}), which would run code; "
                "it was not loaded and nothing was executed"
            ) from None
        raise DamagedModelError(f"cannot load {path}: it is damaged or cut off") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if path.stat().st_size == 0:
        raise DamagedModelError(f"{path} is empty")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise DamagedModelError(f"cannot load {path}: it is damaged or cut off ({told})") from error


def _metadata(path: Path) -> dict[str, Any]:
    """The configuration that some files carry in their own header."""
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _config_beside(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text())
        if isinstance(config, dict):
            return config
    return {}


def _weight_files(folder: Path) -> Iterable[Path]:
    """The safetensors files of a folder; all of those that its index names, if it has one."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise DamagedModelError(f"{index} is damaged: it cannot be read") from error
        # a name from a file is not a path to follow
        files = [folder / Path(str(name)).name for name in sorted(names)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise MissingModelError(f"{folder} lacks {_some('shards', missing)}")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        files = [file for file in files if file.name == "diffusion_pytorch_model.safetensors"]
    if not files:
        raise MissingModelError(
            f"no weights in {folder}: expected diffusion_pytorch_model.safetensors"
        )
    return files


def _choose(payload: object, prefer: Sequence[str], path: Path) -> tuple[str, dict[str, Tensor]]:
    if not isinstance(payload, Mapping):
        raise WrongModelError(f"{path} holds a {type(payload).__name__}, not a state dict")
    states = {
        str(key): value
        for key, value in payload.items()
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())
    }
    for key in prefer:
        if key in states:
            return key, _tensors(states[key])
    tensors = _tensors(payload)
    if tensors and len(prefer) > 1:  # one name alone is a demand
        return "", tensors
    wanted = " or ".join(f"`{key}`" for key in prefer)
    found = ", ".join(states) or ("a plain state dict" if tensors else "none")
    raise WrongModelError(f"{path} has no state dict {wanted} (it has: {found})")


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
