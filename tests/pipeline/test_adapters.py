"""Adapters beside the weights: scaled, switched and taken away while a model is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models.checkpoints.adapters import adapter
from tests.toys import toy_pipeline
from tethercache.errors import MissingModelError, WrongModelError
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.window import Window

pytest.importorskip("peft", reason="LoRA is an extra")


def latents(pipe: Any) -> Tensor:
    asked = {"num_frames": 21, "policy": Window(window=6), "output_type": "latent"}
    made = pipe("a red ball", **asked).frames
    assert isinstance(made, Tensor)
    return made


@pytest.fixture
def style(tmp_path: Path) -> Path:
    small = {name: tensor * 0.3 for name, tensor in adapter("lora_down", "lora_up").items()}
    save_file(small, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


@pytest.mark.parametrize("scale", [1.0, 0.4, -1.0])
def test_an_adapter_beside_the_weights_is_one_that_is_merged(
    model: Path, style: Path, scale: float
) -> None:
    merged = CausalVideoPipeline.from_pretrained(model, loras=[(style, scale)])
    pipe = CausalVideoPipeline.from_pretrained(model)
    plain = latents(pipe)
    pipe.load_lora_weights(style, "style")
    pipe.set_adapters("style", scale)
    made = latents(pipe)
    assert torch.allclose(made, latents(merged), atol=1e-4)
    assert not torch.allclose(made, plain, atol=1e-2)


def test_scales_and_switches_hold_at_once_and_leave_nothing(style: Path) -> None:
    pipe = toy_pipeline()
    names, plain = list(pipe.transformer.state_dict()), latents(pipe)
    pipe.load_lora_weights(style)
    assert pipe.get_active_adapters() == ["default_0"]
    pipe.set_adapters("default_0", 0.0)
    assert torch.equal(latents(pipe), plain)
    pipe.load_lora_weights(style.parent, weight_name=style.name)
    assert pipe.get_list_adapters() == {"transformer": ["default_0", "default_1"]}
    once = latents(pipe)
    pipe.set_adapters(["default_0", "default_1"], [0.25, 0.75])
    assert torch.allclose(latents(pipe), once, atol=1e-4)  # the same file twice
    pipe.disable_lora()
    assert torch.equal(latents(pipe), plain)
    pipe.enable_lora()
    pipe.delete_adapters("default_0")
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe), plain)
    assert list(pipe.transformer.state_dict()) == names


def test_fused_they_are_saved_with_the_model(style: Path, tmp_path: Path) -> None:
    pipe = toy_pipeline()
    pipe.load_lora_weights(style, "style")
    made = latents(pipe)
    with pytest.raises(ValueError, match="has adapters beside its weights"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "model")
    again = latents(CausalVideoPipeline.from_pretrained(tmp_path / "model"))
    assert torch.allclose(again, made, atol=1e-4)


def test_mistakes_are_named(style: Path, tmp_path: Path) -> None:
    pipe = toy_pipeline()
    pipe.load_lora_weights(adapter(), "style")
    with pytest.raises(ValueError, match=r"`adapter_name` \(style\) is taken"):
        pipe.load_lora_weights(style, "style")
    with pytest.raises(ValueError, match="not in the list of present adapters"):
        pipe.set_adapters("other")
    with pytest.raises(MissingModelError, match="no adapter in"):
        pipe.load_lora_weights(tmp_path, "more")
    with pytest.raises(WrongModelError, match="the adapter is not a LoRA of this transformer"):
        pipe.load_lora_weights({"blocks.9.self_attn.q.lora_A.weight": torch.ones(2, 24)}, "more")
    shape = pipe.transformer.blocks[0].ffn.net[0].proj.bias.shape
    with pytest.raises(WrongModelError, match="can only be merged"):
        pipe.load_lora_weights({"blocks.0.ffn.0.diff_b": torch.ones(shape)}, "more")
    assert pipe.get_list_adapters() == {"transformer": ["style"]}
