"""LoRA adapters merged into a transformer, through diffusers and PEFT.

Merged, an adapter costs nothing per pass and the model is saved, attached and hashed like any
other. Names may be those of the original Wan code or of diffusers, with the wrappers of PEFT
(`base_model.model.`, as LongLive has them), ComfyUI (`diffusion_model.`) or diffusers
(`transformer.`), and `lora_A`/`lora_B` or `lora_down`/`lora_up`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from tethercache.backbones.weights import diffusers_name, read_checkpoint
from tethercache.errors import (
    DamagedModelError,
    MissingModelError,
    TetherCacheError,
    WrongModelError,
)

_KEYS = ("generator_lora", "lora", "state_dict", "model")
_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "generator_lora.pt")
_OUTER = ("base_model.model.", "transformer.", "diffusion_model.", "default.")
_PART = re.compile(r"^(.*?)\.(?:lora_)?(A|B|down|up)(?:\.default)?\.weight$|^(.*)\.(alpha)$")
_SIDES = {"A": "A", "down": "A", "B": "B", "up": "B", "alpha": "alpha"}


def require_peft() -> None:
    """Raise `MissingModelError` if PEFT, an optional dependency, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise MissingModelError("LoRA needs the peft library: pip install 'tethercache[lora]'")


def merge_lora(transformer: WanTransformer3DModel, path: str | Path, scale: float = 1.0) -> None:
    """Add `scale` times an adapter's update to the weights: W + scale x alpha / rank x B A.

    Args:
        transformer: changed in place.
        path: a safetensors file, a `.pt` with `generator_lora`, or a folder that PEFT or diffusers
            wrote.
        scale: strength; 0 changes nothing, negative values push away.

    Raises:
        MissingModelError: if there is no file, or PEFT is not installed.
        WrongModelError: if the adapter is not one of this transformer, with counts and examples.
        TetherCacheError: as `read_checkpoint`.
    """
    require_peft()
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            raise MissingModelError(f"no adapter in {path}: expected {' or '.join(_FILES)}")
        path = files[0]
    state = _adapter(path, read_checkpoint(path, prefer=_KEYS).state, transformer)
    dtype = transformer.dtype
    try:
        transformer.load_lora_adapter(
            {name: tensor.to(dtype) for name, tensor in state.items()},
            prefix=None,
            adapter_name="merged",
        )
        transformer.fuse_lora(lora_scale=scale, adapter_names=["merged"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TetherCacheError(f"cannot merge {path}: {' '.join(str(error).split())}") from error
    finally:
        transformer.unload_lora()
    transformer.requires_grad_(False)


def _adapter(
    path: Path, state: dict[str, Tensor], transformer: WanTransformer3DModel
) -> dict[str, Tensor]:
    """The adapter under diffusers names, alpha / rank folded into its A matrices."""
    modules: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in state.items():
        matched = _PART.match(name)
        if matched is None:
            strange.append(name)
            continue
        module, side = matched[1] or matched[3], matched[2] or matched[4]
        for outer in _OUTER:
            module = module.removeprefix(outer)
        module = diffusers_name(f"{module}.weight").removesuffix(".weight")
        modules.setdefault(module, {})[_SIDES[side]] = tensor
    linear = {name: m for name, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    wrong = [name for name, parts in modules.items() if not _fits(parts, linear.get(name))]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("tensors are no LoRA", strange), ("layers do not fit", wrong))
        if names
    ]
    if problems or not modules:
        found = "; ".join(problems) or "it has no tensors"
        raise WrongModelError(f"{path} is not a LoRA of this transformer: {found}")
    adapter, common = {}, _alpha(path.parent / "adapter_config.json")
    for module, parts in modules.items():
        down = parts["A"]
        if (alpha := parts.get("alpha", common)) is not None:
            down = down * (float(alpha) / down.shape[0])
        adapter[f"{module}.lora_A.weight"] = down
        adapter[f"{module}.lora_B.weight"] = parts["B"]
    return adapter


def _alpha(config: Path) -> float | None:
    """The one alpha that PEFT writes for all layers of an adapter."""
    try:
        return float(json.loads(config.read_text())["lora_alpha"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedModelError(f"cannot read {config}: {error}") from error


def _fits(parts: dict[str, Tensor], layer: nn.Linear | None) -> bool:
    if layer is None or not {"A", "B"} <= set(parts):
        return False
    down, up = parts["A"], parts["B"]
    shapes = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1]
    return shapes and (up.shape[0], down.shape[1]) == (layer.out_features, layer.in_features)
