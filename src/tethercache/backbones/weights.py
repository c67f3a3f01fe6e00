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
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tethercache.alignment import align
from tethercache.arguments import number, whole_number
from tethercache.errors import (
    DamagedModelError,
    MissingModelError,
    TetherCacheError,
    UnsafeModelError,
    WrongModelError,
)
from tethercache.foreign import first, read_json, reading, regular_file, some, weight_map

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

MOST_TENSORS = 1 << 16
"""Of one file; the largest Wan has about a thousand."""

MOST_LAYERS = 1000

_PIECE = 1 << 24

_CUT = "it is damaged or cut off"


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
    if not os.path.exists(path):
        raise MissingModelError(f"no checkpoint at {path}")
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        if (path / "transformer").is_dir():
            folder = path / "transformer"
        state: dict[str, Tensor] = {}
        for file in weight_files(folder):
            state |= _read_safetensors(file)
        return Checkpoint(path, state, hints=_hints(folder / "config.json"))
    kind = _kind(path)
    if kind == "safetensors":
        hints = _hints(folder / "config.json") | _metadata(path)
        return Checkpoint(path, _read_safetensors(path), hints=hints)
    key, state = _choose(_read_pickle(path, mmap=kind == "zip"), prefer, path)
    _check_stored(state, path)
    return Checkpoint(path, state, key, _hints(folder / "config.json"))


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
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        examples = first(list(checkpoint.state)) or "none"
        raise WrongModelError(
            f"{where} is not a Wan transformer: {len(names)} tensors, such as {examples}"
        ) from None
    blocks = {int(name.split(".")[1]) for name in names if re.match(r"blocks\.\d+\.", name)}
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise WrongModelError(f"{where} holds nothing in {some('tensors', empty)}")
    if len(blocks) > MOST_LAYERS:
        raise WrongModelError(f"{where} has {len(blocks)} blocks, more than {MOST_LAYERS}")
    if len(blocks) != max(blocks) + 1:
        raise WrongModelError(f"{where} has {len(blocks)} blocks, the last of number {max(blocks)}")
    hints = checkpoint.hints
    if hints.get("dim", width) != width:
        hints = {}  # of another model that lies in the same folder
    known = heads or hints.get("num_heads") or hints.get("num_attention_heads")
    known = known or _HEADS.get(width)
    if not known or width % known:
        raise WrongModelError(
            f"the number of heads of {where} (width {width}) is not known; put the config.json "
            "of the original model next to it"
        )
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": known,
        "attention_head_dim": width // known,
        "in_channels": channels,
        "out_channels": out,
        "text_dim": text,
        "freq_dim": freq,
        "ffn_dim": ffn,
        "num_layers": max(blocks) + 1,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "eps": hints.get("eps", 1e-6),
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
    with reading(path), torch.device("meta"):
        transformer = WanTransformer3DModel(**config)
    _check_names(checkpoint, transformer.state_dict())
    # its tables are computed, not stored
    transformer.rope = type(transformer.rope)(
        config["attention_head_dim"], config["patch_size"], transformer.config.rope_max_seq_len
    )
    state = {}
    for name in list(checkpoint.state):
        tensor = checkpoint.state.pop(name)  # so that no tensor is held twice
        renamed = diffusers_name(name)
        state[renamed] = tensor.to(_dtype_of(renamed, tensor.dtype, dtype))
    transformer.load_state_dict(state, strict=True, assign=True)
    return transformer.eval().requires_grad_(False)


def not_finite(module: nn.Module) -> str:
    """Which tensors of a module hold NaN or infinity, in words; empty if none does.

    Reads every number once, piece by piece: seconds for the largest models.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    return some("tensors", [name for name, tensor in named if not _finite(tensor)])


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    return all(bool(piece.isfinite().all()) for piece in tensor.detach().flatten().split(_PIECE))


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
        some("missing", sorted(set(expected) - set(given))),
        some("unexpected", sorted(given[name][0] for name in set(given) - set(expected))),
        some(
            "of another shape",
            [
                f"{given[name][0]} {list(given[name][1].shape)} for {list(expected[name].shape)}"
                for name in expected
                if name in given and given[name][1].shape != expected[name].shape
            ],
        ),
        some(
            "not floating point",
            [name for name, tensor in given.values() if not tensor.is_floating_point()],
        ),
    ]
    if len(given) < len(checkpoint.state):
        problems.append(f"{len(checkpoint.state) - len(given)} given twice")
    if found := "; ".join(filter(None, problems)):
        raise WrongModelError(f"{checkpoint.path} does not fit a Wan transformer: {found}")


def _kind(path: Path) -> str:
    """Container of a file by its first bytes: `zip`, `pickle` (older PyTorch) or `safetensors`."""
    size = regular_file(path)
    with reading(path), path.open("rb") as file:
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
    if mmap:
        _check_archive(path)
    try:
        with reading(path, _CUT):
            return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except DamagedModelError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error.__cause__)):
            raise UnsafeModelError(
                f"{path} holds something other than tensors ({named[1]}), which would run code; "
                "it was not loaded and nothing was executed"
            ) from None
        raise


def _check_archive(path: Path) -> None:
    """Look at what a zip archive says of itself, before anything in it is read."""
    with reading(path, _CUT), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()  # at the end of the file, so that a cut off one has none
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsafeModelError(
            f"{path} is a TorchScript program, not a state dict; it was not loaded"
        )
    # PyTorch compresses nothing
    _check_size(path, sum(entry.file_size for entry in entries))


def _check_stored(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are larger than what the file stores of them.

    A few bytes can stand for a tensor of any size, by strides of zero or as one of many views.
    """
    strange = [name for name, t in state.items() if t.layout is not torch.strided or t.is_quantized]
    strange += [name for name, t in state.items() if t.device.type != "cpu"]
    if strange:
        raise WrongModelError(f"{path} holds {some('tensors of a foreign kind', strange)}")
    _check_size(path, sum(tensor.numel() * tensor.element_size() for tensor in state.values()))


def _check_size(path: Path, declared: int) -> None:
    if declared > (size := regular_file(path)):
        raise DamagedModelError(
            f"{path} is not to be believed: it declares {declared / 1e6:.1f} MB of tensors and has "
            f"{size / 1e6:.1f} MB"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped."""
    if regular_file(path) == 0:
        raise DamagedModelError(f"{path} is empty")
    with reading(path, _CUT), safe_open(path, "pt") as file:
        names = list(file.keys())
        _check_number(len(names), path)
        return {name: file.get_tensor(name) for name in names}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file, from its header.

    Raises:
        TetherCacheError: if it cannot be read.
    """
    regular_file(path)
    with reading(path, _CUT), safe_open(path, "pt") as file:
        names = list(file.keys())
        _check_number(len(names), path)
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def _check_number(tensors: int, path: Path) -> None:
    if tensors > MOST_TENSORS:
        raise WrongModelError(f"{path} has {tensors} tensors, more than {MOST_TENSORS}")


def _metadata(path: Path) -> dict[str, Any]:
    """What some files carry in their own header."""
    with reading(path, _CUT), safe_open(path, "pt") as file:
        carried = (file.metadata() or {}).get("config", "{}")
    try:
        config = json.loads(carried)
    except (ValueError, RecursionError):
        return {}
    return _well_formed(config) if isinstance(config, dict) else {}


def _hints(config: Path) -> dict[str, Any]:
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


def weight_files(folder: Path) -> Iterable[Path]:
    """The safetensors files of a folder; all of those that its index names, if it has one."""
    for index in folder.glob("*.safetensors.index.json"):
        files = [folder / name for name in sorted({*weight_map(index).values()})]
        if missing := [file.name for file in files if not os.path.exists(file)]:
            raise MissingModelError(f"{folder} lacks {some('shards', missing)}")
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
    _check_number(max(map(len, (payload, *states.values()))), path)
    for key in prefer:
        if key in states:
            return key, _tensors(states[key])
    tensors = _tensors(payload)
    if tensors and len(prefer) > 1:  # one name alone is a demand
        return "", tensors
    wanted = " or ".join(f"`{key}`" for key in prefer)
    found = first(list(states)) or ("a plain state dict" if tensors else "none")
    raise WrongModelError(f"{path} has no state dict {wanted} (it has: {found})")


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict by their names."""
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
