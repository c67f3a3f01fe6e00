"""What belongs together in a file: weights and their scales, layers and their adapters.

What comes out are the tensors of a model under the names that they have without all this.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tethercache.arguments import number
from tethercache.errors import WrongModelError
from tethercache.foreign import read_json, reading, some
from tethercache.models.checkpoints.packed import Adapted, Scaled, Stored, number_format

_SCALE = re.compile(r"^(.*)\.(?:scale_weight|weight_scale)$")
_MARK = re.compile(r"^(?:(.*)\.)?(?:scale_input|input_scale|comfy_quant|scaled_fp8)$")
"""What says how a weight is stored or how inputs might be rounded, and changes no weight."""

_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_blockwise")
"""Formats of ComfyUI that are numbers and their scales, and nothing else."""

_LAYER = re.compile(r"^(.*)\.(base_layer|original_module|modules_to_save\.\w+)\.(\w+)$")
_SIDE = re.compile(r"^(.*)\.lora_([AB])\.(?:(\w+)\.)?weight$")

_VACE = re.compile(r"(?:^|\.)vace_(?:blocks|patch_embedding)\.")


def with_scales(
    state: dict[str, Stored], layouts: Mapping[str, Any], path: Path
) -> dict[str, Stored]:
    """Join weights of 8 bits with their scales.

    Understood are the two ways of ComfyUI (`scale_weight` with `scaled_fp8`; `weight_scale` with
    `comfy_quant`) and that of LightX2V (`weight_scale` of each row, fp8 and int8).

    Args:
        state: tensors by their names in the file.
        layouts: how layers are stored, as the file's header says.
        path: the file, for messages.

    Raises:
        WrongModelError: if weights are stored in a way that is not known, or scales do not fit.
    """
    scales = {m[1]: name for name in state if (m := _SCALE.match(name))}
    marks = {name for name in state if _MARK.match(name)}
    if not scales and not marks and not layouts:
        return state
    told = dict(layouts) | {
        name.removesuffix(".comfy_quant"): _layout(state[name])
        for name in marks
        if name.endswith(".comfy_quant")
    }
    if strange := sorted({_unknown(layout) for layout in told.values()} - {""}):
        raise WrongModelError(
            f"{path} is stored as {', '.join(strange)}, which cannot be undone here; take a file "
            "in bf16, fp8 (plain or scaled), int8 without rotation, or GGUF"
        )
    used = {name for name in state if name not in marks and name not in scales.values()}
    made = {name: state[name] for name in used}
    wrong = []
    for layer, name in scales.items():
        weight, scale = state.get(f"{layer}.weight"), state[name]
        if isinstance(weight, Tensor) and isinstance(scale, Tensor) and _fits(weight, scale):
            made[f"{layer}.weight"] = Scaled(weight, scale)
        else:
            wrong.append(name)
    if wrong:
        raise WrongModelError(f"{path} holds {some('scales that fit no weight', wrong)}")
    return {name: made[name] for name in state if name in made}


def _layout(mark: Stored) -> object:
    """What a `comfy_quant` tensor says: JSON in bytes."""
    if not isinstance(mark, Tensor) or mark.dtype != torch.uint8 or mark.numel() > 1 << 16:
        return "?"
    try:
        return json.loads(bytes(mark.flatten().tolist()))
    except (ValueError, RecursionError):
        return "?"


def _unknown(layout: object) -> str:
    """The name of a layout that is more than numbers and their scales, or nothing."""
    entries = layout if isinstance(layout, dict) else {"format": layout}
    named = str(entries.get("format"))
    if named not in _FORMATS:
        return named
    more = [key for key in ("convrot", "pre_quant_scale") if entries.get(key)]
    return f"{named} with {more[0]}" if more else ""


def _fits(weight: Tensor, scale: Tensor) -> bool:
    """Whether the numbers of a scale belong to those of a matrix."""
    if weight.ndim != 2 or number_format(scale) is None or 0 in weight.shape:
        return False
    rows, columns = weight.shape
    if scale.numel() == 1 or tuple(scale.shape) in ((rows,), (rows, 1)):
        return True
    if scale.ndim != 2 or 0 in scale.shape or rows % len(scale) or columns % scale.shape[1]:
        return False
    return rows // len(scale) == columns // scale.shape[1]


def with_adapters(
    state: dict[str, Stored], path: Path, folder: Path
) -> tuple[dict[str, Stored], str]:
    """Merge the adapters of a model that PEFT had wrapped when it was saved.

    Args:
        state: tensors by their names in the file.
        path: the file, for messages.
        folder: where an `adapter_config.json` may tell alpha.

    Returns:
        The tensors as they were named before PEFT wrapped them; and what a user has to know.

    Raises:
        WrongModelError: if there are several adapters, or others than plain LoRA.
    """
    layers = {name: m for name in state if (m := _LAYER.match(name))}
    if not layers:
        return state, ""
    sides: dict[str, dict[str, Tensor]] = {}
    adapters = set()
    strange = []
    made: dict[str, Stored] = {}
    for name, tensor in state.items():
        if matched := _SIDE.match(name):
            adapters.add(matched[3])
            assert isinstance(tensor, Tensor)
            sides.setdefault(matched[1], {})[matched[2]] = tensor
        elif name in layers:
            module, kind, leaf = layers[name].groups()
            if kind != "original_module":
                made[f"{module}.{leaf}"] = tensor
        elif ".lora_" in name:
            strange.append(name)
        else:
            made[name] = tensor
    strength = peft_strength(folder)
    for module, pair in sides.items():
        base = made.get(f"{module}.weight")
        if base is None or not _is_update(base, pair):
            strange.append(f"{module}.lora_A")
            continue
        scale = 1.0 if strength is None else strength(len(pair["A"]))
        made[f"{module}.weight"] = Adapted(base, pair["A"], pair["B"], scale)
    if strange or len(adapters) > 1:
        found = some("tensors of another kind", strange) or some("adapters", sorted(adapters))
        raise WrongModelError(f"{path} was saved with adapters that cannot be merged: {found}")
    said = f"{path} was saved with its LoRA beside the weights ({len(sides)} layers); it is merged"
    if strength is None:
        said += ", with an alpha equal to its rank, because no adapter_config.json tells another"
    return made, said


def _is_update(base: Stored, pair: Mapping[str, Tensor]) -> bool:
    if set(pair) != {"A", "B"} or None in map(number_format, pair.values()):
        return False
    down, up = pair["A"], pair["B"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not len(down):
        return False
    return tuple(base.shape) == (up.shape[0], down.shape[1])


def peft_strength(folder: Path) -> Callable[[int], float] | None:
    """How strong the updates of an adapter are by their rank, as PEFT's file beside it says.

    Args:
        folder: of the adapter.

    Returns:
        From rank to strength; None where there is no `adapter_config.json`.

    Raises:
        DamagedModelError: if there is one and it cannot be understood.
    """
    config = folder / "adapter_config.json"
    if not config.is_file():
        return None
    with reading(config):
        told = read_json(config)
        alpha = float(number("lora_alpha", told.get("lora_alpha")))
        if told.get("alpha_pattern") or told.get("rank_pattern"):
            raise ValueError("layers of different rank or alpha are not supported")
    return lambda rank: alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)


def without_vace(state: dict[str, Stored], path: Path) -> tuple[dict[str, Stored], str]:
    """Leave out the control branch that VACE adds to a text-to-video model.

    Args:
        state: tensors by their names in the file.
        path: the file, for the message.

    Returns:
        The tensors of the text-to-video model; and what a user has to know.
    """
    control = {name for name in state if _VACE.search(name)}
    if not control:
        return state, ""
    found = some("tensors", sorted(control))
    said = f"{path} holds VACE's control branch, which is left out: {found}"
    return {name: tensor for name, tensor in state.items() if name not in control}, said
