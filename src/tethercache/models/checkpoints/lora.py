"""LoRA adapters for a transformer, through diffusers and PEFT: merged into it, or beside it.

Merged, an adapter costs nothing per pass and the model is saved, attached and hashed like any
other. Beside the weights it can be scaled, switched and taken away while the model is used.

Names may be those of the original Wan code or of diffusers, with the wrappers of PEFT
(`base_model.model.`, as LongLive has them), ComfyUI (`diffusion_model.`) or diffusers
(`transformer.`), the flat ones of kohya and musubi (`lora_unet_blocks_0_self_attn_q`), and
`lora_A`/`lora_B` or `lora_down`/`lora_up`. Differences of whole weights, which LightX2V extracts
beside them (`.diff`, `.diff_b`, `.diff_m`), are added. The magnitudes of a DoRA (arXiv 2402.09353)
are `dora_scale` or `lora_magnitude_vector`, one for each output of a layer, as PEFT has them.

The names are those of whole checkpoints, read by the same table, because the converters of
diffusers leave out what they do not know: differences of norms, layers of a part of the blocks.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from tethercache.arguments import number
from tethercache.errors import MissingModelError, WrongModelError
from tethercache.foreign import first, read_json, reading, some
from tethercache.models.checkpoints.names import diffusers_name, module_name
from tethercache.models.checkpoints.read import Checkpoint, read_checkpoint

_KEYS = ("generator_lora", "lora", "state_dict", "model")
_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "generator_lora.pt")
_PART = re.compile(
    r"^(?P<layer>.*?)\.(?:(?:lora_)?(?P<side>A|B|down|up)(?:\.default)?\.weight|(?P<alpha>alpha)"
    r"|(?P<magnitude>dora_scale|lora_magnitude_vector)(?:\.default)?(?:\.weight)?)$"
)
_DIFFERENCE = re.compile(r"^(.*)\.(diff|diff_b|diff_m)$")
_DIFFERS = {"diff": ".weight", "diff_b": ".bias", "diff_m": ".modulation"}
_SIDES = {"A": "A", "down": "A", "B": "B", "up": "B"}


def require_peft() -> None:
    """Raise `MissingModelError` if PEFT, an optional dependency, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise MissingModelError("LoRA needs the peft library: pip install 'tethercache[lora]'")


def read_lora(path: str | Path) -> Checkpoint:
    """Open the file of an adapter; see `merge_lora`.

    Raises:
        TetherCacheError: as `read_checkpoint`, and if a folder has none.
    """
    path = Path(path)
    if os.path.isdir(path):
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            raise MissingModelError(f"no adapter in {path}: expected {' or '.join(_FILES)}")
        path = files[0]
    return read_checkpoint(path, prefer=_KEYS)


def merge_lora(transformer: WanTransformer3DModel, path: str | Path, scale: float = 1.0) -> None:
    """Add `scale` times an adapter's update to the weights: W' = W + scale x alpha / rank x B A.

    Where the file holds differences of weights, `scale` times these are added too. A DoRA has a
    magnitude m for each row of W' beside it, which becomes m W' / |W'| (arXiv 2402.09353, equation
    5): as in PEFT the scale is that of its direction, and the magnitudes hold at every scale.

    Args:
        transformer: changed in place.
        path: a safetensors file, a `.pt` with `generator_lora`, or a folder that PEFT or diffusers
            wrote.
        scale: strength; 0 changes nothing but magnitudes, negative values push away.

    Raises:
        MissingModelError: if there is no file, or PEFT is not installed.
        ValueError: if the scale is no finite number.
        WrongModelError: if the adapter is not one of this transformer, with counts and examples.
        TetherCacheError: as `read_checkpoint`.
    """
    require_peft()
    scale = number("scale", scale)
    checkpoint = read_lora(path)
    path = checkpoint.path
    tensors = {name: t for name, t in checkpoint.state.items() if isinstance(t, Tensor)}
    state, differences = _adapter(path, tensors, transformer)
    if state:
        _merge(transformer, path, state, scale)
    parameters = dict(transformer.named_parameters())
    for name, difference in differences.items():
        parameter = parameters[name]
        parameter.data = parameter.data + (scale * difference.float()).to(parameter.dtype)
    transformer.requires_grad_(False)


def add_lora(
    transformer: WanTransformer3DModel,
    source: str | Path | Mapping[str, Tensor],
    name: str,
    file: str | None = None,
) -> None:
    """Put an adapter beside the weights; `set_adapters` of diffusers scales it from there on.

    Args:
        transformer: changed in place.
        source: as for `merge_lora`, or the tensors themselves.
        name: of the adapter.
        file: which file of a folder.

    Raises:
        ValueError: if there is an adapter of this name.
        WrongModelError: if the adapter is not one of this transformer, or holds differences of
            weights, which no scale can be given to.
        TetherCacheError: as `merge_lora`.
    """
    require_peft()
    if name in getattr(transformer, "peft_config", {}):
        raise ValueError(f"`adapter_name` ({name}) is taken; `delete_adapters` makes it free")
    if isinstance(source, Mapping):
        path, tensors = Path("the adapter"), dict(source)
    else:
        checkpoint = read_lora(Path(source) / file if file is not None else source)
        path = checkpoint.path
        tensors = {key: t for key, t in checkpoint.state.items() if isinstance(t, Tensor)}
    state, differences = _adapter(path, tensors, transformer)
    if differences:
        raise WrongModelError(
            f"{path} holds differences of whole weights ({first([*differences])}), which can only "
            "be merged: `from_pretrained(..., loras=[(file, scale)])`"
        )
    _load(transformer, path, state, name)
    transformer.requires_grad_(False)


def _load(
    transformer: WanTransformer3DModel, path: Path, state: dict[str, Tensor], name: str
) -> None:
    dtype = transformer.dtype
    cast = {key: tensor.to(dtype) for key, tensor in state.items()}
    with reading(path):
        transformer.load_lora_adapter(cast, prefix=None, adapter_name=name)


def _merge(
    transformer: WanTransformer3DModel, path: Path, state: dict[str, Tensor], scale: float
) -> None:
    try:
        _load(transformer, path, state, "merged")
        with reading(path):
            transformer.fuse_lora(lora_scale=scale, adapter_names=["merged"])
    finally:
        transformer.unload_lora()


def _adapter(
    path: Path, state: dict[str, Tensor], transformer: WanTransformer3DModel
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapter and the differences of parameters that a file holds, under diffusers names.

    Alpha / rank is folded into the A matrices of the adapter.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    differences: dict[str, Tensor] = {}
    strange = []
    for name, tensor in state.items():
        if differs := _DIFFERENCE.match(name):
            differences[diffusers_name(differs[1] + _DIFFERS[differs[2]])] = tensor
            continue
        matched = _PART.match(name)
        if matched is None:
            strange.append(name)
            continue
        part = "alpha" if matched["alpha"] else "magnitude"
        part = _SIDES[matched["side"]] if matched["side"] else part
        modules.setdefault(module_name(matched["layer"]), {})[part] = tensor
    linear = {
        name.removesuffix(".base_layer"): module  # as PEFT calls it where another adapter is beside
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name
    }
    wrong = [name for name, parts in modules.items() if not _fits(parts, linear.get(name))]
    named = transformer.named_parameters()
    shapes = {name.replace(".base_layer.", "."): parameter.shape for name, parameter in named}
    wrong += [name for name, t in differences.items() if shapes.get(name) != t.shape]
    found = {"tensors are no LoRA": strange, "layers do not fit": wrong, **_not_dora(modules)}
    problems = [some(what, names) for what, names in found.items() if names]
    if problems or not (modules or differences):
        told = "; ".join(problems) or "it has no tensors"
        raise WrongModelError(f"{path} is not a LoRA of this transformer: {told}")
    adapter = {}
    common, stable = _of_peft(path.parent / "adapter_config.json")
    for module, parts in modules.items():
        down = parts["A"]
        if (alpha := parts.get("alpha", common)) is not None:
            down = down * (float(alpha) / down.shape[0] ** (0.5 if stable else 1))
        adapter[f"{module}.lora_A.weight"] = down
        adapter[f"{module}.lora_B.weight"] = parts["B"]
        if "magnitude" in parts:
            adapter[f"{module}.lora_magnitude_vector"] = parts["magnitude"].flatten()
    return adapter, differences


def _of_peft(config: Path) -> tuple[float | None, bool]:
    """The alpha of all layers, if PEFT's file is there, and if its rank counts as its root."""
    if not os.path.exists(config):
        return None, False
    with reading(config):
        told = read_json(config)
        if several := told.get("alpha_pattern"):
            raise WrongModelError(f"{config} has an alpha for each layer ({first([*several])})")
        return float(number("lora_alpha", told.get("lora_alpha"))), bool(told.get("use_rslora"))


def _not_dora(modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[str]]:
    """What of the magnitudes PEFT cannot compute with, by reason."""
    dora = {name: parts["magnitude"] for name, parts in modules.items() if "magnitude" in parts}
    columns = [name for name, m in dora.items() if m.ndim == 2 and len(m) == 1 < m.shape[1]]
    without = [name for name in modules if dora and name not in dora]
    return {
        "layers have a magnitude of each column, and PEFT has one of each row": columns,
        "layers have no magnitude, and PEFT has them for all layers or for none": without,
    }


def _fits(parts: dict[str, Tensor], layer: nn.Linear | None) -> bool:
    if layer is None or not {"A", "B"} <= set(parts):
        return False
    down, up = parts["A"], parts["B"]
    if not all(tensor.is_floating_point() for tensor in (down, up)):
        return False
    if "alpha" in parts and parts["alpha"].numel() != 1:
        return False
    size, sizes = parts.get("magnitude", up[:, 0]).shape, (up.shape[:1], (len(up), 1))
    if size not in (*sizes, (1, down.shape[1])):  # the last is refused by name
        return False
    shapes = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1] > 0
    return shapes and (up.shape[0], down.shape[1]) == (layer.out_features, layer.in_features)
