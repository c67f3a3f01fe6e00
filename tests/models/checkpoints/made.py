"""Synthetic checkpoints of every published format, from one small model with official names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
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


def _pt(folder: Path, content: object) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def self_forcing_dmd(folder: Path) -> Path:
    return _pt(folder, {"generator_ema": official()})


def self_forcing_sid(folder: Path) -> Path:
    state = official()
    return _pt(folder, {"generator": noise(state), "critic": noise(state), "generator_ema": state})


def causal_forcing_with_fsdp_names(folder: Path) -> Path:
    wrapped = {
        name.replace("model.", "model._fsdp_wrapped_module.", 1).replace(
            "blocks.1.", "blocks.1._checkpoint_wrapped_module."
        ): tensor
        for name, tensor in official().items()
    }
    return _pt(folder, {"generator_ema": wrapped})


def longlive_base(folder: Path) -> Path:
    return _pt(folder, {"generator": official()})


def reward_forcing_compiled(folder: Path) -> Path:
    compiled = {f"model._orig_mod.{name[6:]}": tensor for name, tensor in official().items()}
    return _pt(folder, {"generator_ema": compiled})


def plain_state_dict(folder: Path) -> Path:
    return _pt(folder, plain())


def legacy_pickle(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    path = folder / "model.pt"
    torch.save({"generator": official()}, path, _use_new_zipfile_serialization=False)
    return path


def original_wan_file(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(plain(), folder / "diffusion_pytorch_model.safetensors")
    return folder / "diffusion_pytorch_model.safetensors"


def original_wan_folder(folder: Path) -> Path:
    return original_wan_file(folder).parent


def original_wan_shards(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    state, shards = plain(), {}
    for number, names in enumerate((sorted(state)[:40], sorted(state)[40:]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, folder / file)
        shards |= dict.fromkeys(names, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    return folder


def comfy_file(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    renamed = {f"model.diffusion_model.{name}": tensor for name, tensor in plain().items()}
    save_file(renamed, folder / "wan.safetensors")
    return folder / "wan.safetensors"


def diffusers_folder(folder: Path) -> Path:
    reference().save_pretrained(folder / "transformer")
    return folder / "transformer"


def diffusers_pipeline(folder: Path) -> Path:
    return diffusers_folder(folder).parent


FORMATS: list[Callable[[Path], Path]] = [
    self_forcing_dmd,
    self_forcing_sid,
    causal_forcing_with_fsdp_names,
    longlive_base,
    reward_forcing_compiled,
    plain_state_dict,
    legacy_pickle,
    original_wan_file,
    original_wan_folder,
    original_wan_shards,
    comfy_file,
    diffusers_folder,
    diffusers_pipeline,
]


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
