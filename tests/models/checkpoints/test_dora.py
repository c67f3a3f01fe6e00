"""DoRA: rows of W' = W + scale x alpha / rank x B A at the magnitudes of the file, m W' / |W'|.

The formula is equation 5 of arXiv 2402.09353, written out here; the package leaves it to PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tests.models.checkpoints.adapters import MODULES, RANK, decomposed, dora
from tests.pipeline.test_adapters import latents
from tests.toys import toy_pipeline, toy_transformer
from tethercache.errors import WrongModelError
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.pipeline import CausalVideoPipeline

peft = pytest.importorskip("peft", reason="LoRA is an extra")


def check(merged: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """What is adapted is as expected, and nothing else is changed."""
    plain = toy_transformer().state_dict()
    assert merged.keys() == plain.keys()
    for name, tensor in {**plain, **expected}.items():
        assert torch.allclose(merged[name], tensor, atol=1e-6), name


@pytest.mark.parametrize("scale", [0.4, 0.0, -1.0])
def test_it_is_merged_by_the_formula_at_every_scale(scale: float, tmp_path: Path) -> None:
    save_file(dora(), tmp_path / "dora.safetensors")
    model = toy_transformer()
    merge_lora(model, tmp_path / "dora.safetensors", scale)
    check(model.state_dict(), decomposed(scale))


def test_alpha_scales_the_direction(tmp_path: Path) -> None:
    alphas = {f"{module}.alpha": torch.tensor(0.5) for module in MODULES}
    save_file(dora() | alphas, tmp_path / "dora.safetensors")
    model = toy_transformer()
    merge_lora(model, tmp_path / "dora.safetensors")
    check(model.state_dict(), decomposed(0.5 / RANK))


@torch.no_grad()
def test_a_folder_that_peft_has_written_is_merged_to_what_peft_computes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=3, target_modules=["to_q", "ffn.net.2"], use_dora=True, use_rslora=True
    )
    wrapped = peft.get_peft_model(toy_transformer(), config).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.rand_like(parameter))
    wrapped.save_pretrained(tmp_path)
    model = toy_transformer()
    merge_lora(model, tmp_path)
    call = (torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 6, 8))
    plain, theirs, ours = (m(*call).sample for m in (toy_transformer(), wrapped, model))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 0.4, -1.0])
@torch.no_grad()
def test_beside_the_weights_it_computes_the_same_at_every_scale(scale: float) -> None:
    pipe = toy_pipeline()
    pipe.load_lora_weights(dora(), "style")
    pipe.set_adapters("style", scale)
    for name, weight in decomposed(scale).items():
        layer = pipe.transformer.get_submodule(name.removesuffix(".weight"))
        x = torch.randn(2, 5, weight.shape[1])
        assert torch.allclose(layer(x), functional.linear(x, weight, layer.bias), atol=1e-5)
    pipe.disable_lora()
    assert torch.allclose(layer(x), toy_transformer().get_submodule(list(MODULES.values())[-1])(x))
    pipe.enable_lora()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    check(pipe.transformer.state_dict(), decomposed(scale))


def test_a_video_is_the_same_with_a_dora_merged_or_beside(model: Path, tmp_path: Path) -> None:
    save_file(dora(), tmp_path / "dora.safetensors")
    merged = CausalVideoPipeline.from_pretrained(
        model, loras=[(tmp_path / "dora.safetensors", 0.7)]
    )
    pipe = CausalVideoPipeline.from_pretrained(model)
    plain = latents(pipe)
    pipe.load_lora_weights(tmp_path / "dora.safetensors", "style")
    pipe.set_adapters("style", 0.7)
    made = latents(pipe)
    assert torch.allclose(made, latents(merged), atol=1e-4)
    assert not torch.allclose(made, plain, atol=1e-2)


@pytest.mark.parametrize("beside", [False, True])
def test_sizes_that_do_not_fit_are_refused_by_name(beside: bool, tmp_path: Path) -> None:
    good, module = dora(), next(iter(MODULES))
    short = {f"{module}.dora_scale": torch.ones(3, 1)}
    alone = {name: t for name, t in good.items() if not name.startswith(f"{module}.lora")}
    pipe, file = toy_pipeline(), tmp_path / "dora.safetensors"

    def use() -> None:
        if beside:
            pipe.load_lora_weights(file, "style")
        else:
            merge_lora(pipe.transformer, file)

    for message, state in (
        ("1 layers do not fit .blocks.0.attn1.to_q", good | short),
        ("1 layers do not fit .blocks.0.attn1", alone),
        ("an alpha for each layer .to_q", good),
    ):
        save_file(state, file)
        if "alpha" in message:
            told = '{"lora_alpha": 4, "alpha_pattern": {"to_q": 2}}'
            (tmp_path / "adapter_config.json").write_text(told)
        with pytest.raises(WrongModelError, match=message):
            use()
    check(pipe.transformer.state_dict(), {})
