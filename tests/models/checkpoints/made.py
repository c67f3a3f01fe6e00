"""One small model with official names, of which other files are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from tests.golden.runner import load_transformer
from tethercache.models.checkpoints.names import diffusers_name

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIG = {
    "_class_name": "WanModel",
    "dim": 128,
    "eps": 1e-06,
    "ffn_dim": 256,
    "freq_dim": 256,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 4,
    "num_layers": 3,
    "out_dim": 16,
    "text_len": 16,
}


def official() -> dict[str, Tensor]:
    """A state dict as `WanDiffusionWrapper` writes it: every name starts with `model.`."""
    return load_file(GOLDEN / "model.safetensors")


def plain() -> dict[str, Tensor]:
    """The same with the names of the original Wan repository."""
    return {name.removeprefix("model."): tensor for name, tensor in official().items()}


def reference() -> WanTransformer3DModel:
    return load_transformer(GOLDEN)


def noise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Other weights under the same names, which must not be picked."""
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def wan_names(model: WanTransformer3DModel) -> dict[str, Tensor]:
    """The parameters of any diffusers model under official names (the golden file's templates)."""
    # the names of block 0 serve every block
    templates = {diffusers_name(name): name for name in official()}
    renamed = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            template = templates[".".join(["blocks", "0", *parts[2:]])]
            renamed[template.replace("blocks.0.", f"blocks.{parts[1]}.")] = tensor
        else:
            renamed[templates[name]] = tensor
    return renamed
