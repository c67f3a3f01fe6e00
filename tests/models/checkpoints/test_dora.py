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

from tests.models.checkpoints.test_lora import MODULES, RANK, adapter, flat
from tests.pipeline.test_adapters import latents
from tests.toys import toy_pipeline, toy_transformer
from tethercache.errors import WrongModelError
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.pipeline import CausalVideoPipeline

peft = pytest.importorskip("peft", reason="LoRA is an extra")

State = dict[str, Tensor]


def magnitudes() -> State:
    """Of each row of each adapted layer, by official names of layers."""
    random, model = torch.Generator().manual_seed(11), toy_transformer()
    rows = {module: model.get_submodule(name).out_features for module, name in MODULES.items()}
    return {module: 0.5 + torch.rand(n, generator=random) for module, n in rows.items()}


def decomposed(scale: float = 1.0, alpha: float = RANK) -> State:
    """The weights that the adapter makes of the toy's, under names of diffusers."""
    plain, sizes, made = adapter(), magnitudes(), {}
    for official, name in MODULES.items():
        up, down = (plain[f"{official}.lora_{side}.weight"] for side in "BA")
        moved = toy_transformer().get_submodule(name).weight + scale * alpha / RANK * up @ down
        lengths = moved.pow(2).sum(dim=1).sqrt()
        made[f"{name}.weight"] = (sizes[official] / lengths)[:, None] * moved
    return made


def official(name: str = "dora_scale", prefix: str = "", column: bool = True) -> State:
    """The adapter with magnitudes under a name, `[out, 1]` or `[out]`."""
    sizes = {
        f"{prefix}{module}.{name}": size[:, None] if column else size
        for module, size in magnitudes().items()
    }
    return adapter(prefix=prefix) | sizes


def flattened() -> State:
    """Names of kohya and musubi."""
    named = {f"lora_unet_{m.replace('.', '_')}": size for m, size in magnitudes().items()}
    sizes = {f"{layer}.dora_scale": size[:, None] for layer, size in named.items()}
    alphas = {f"{layer}.alpha": torch.tensor(float(RANK)) for layer in named}
    return flat(adapter("lora_down", "lora_up")) | sizes | alphas


NAMED = {
    "dora_scale": official,
    "comfy": lambda: official(prefix="diffusion_model."),
    "kohya": flattened,
    "diffusers": lambda: official("lora_magnitude_vector", "transformer.", column=False),
    "peft": lambda: official("lora_magnitude_vector.default.weight", column=False),
}


def check(merged: Mapping[str, Tensor], expected: State) -> None:
    """What is adapted is as expected, and nothing else is changed."""
    plain = toy_transformer().state_dict()
    assert merged.keys() == plain.keys()
    for name, tensor in (plain | expected).items():
        assert torch.allclose(merged[name], tensor, atol=1e-6), name


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.0, -1.0])
@pytest.mark.parametrize("named", NAMED)
def test_a_dora_under_any_name_is_merged_by_the_formula(
    named: str, scale: float, tmp_path: Path
) -> None:
    save_file({n: t.contiguous() for n, t in NAMED[named]().items()}, tmp_path / "dora.safetensors")
    model = toy_transformer()
    merge_lora(model, tmp_path / "dora.safetensors", scale)
    check(model.state_dict(), decomposed(scale))


def test_alpha_scales_the_direction(tmp_path: Path) -> None:
    alphas = {f"{module}.alpha": torch.tensor(0.5) for module in MODULES}
    save_file(official() | alphas, tmp_path / "dora.safetensors")
    model = toy_transformer()
    merge_lora(model, tmp_path / "dora.safetensors")
    check(model.state_dict(), decomposed(alpha=0.5))


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
    pipe.load_lora_weights(official(), "style")
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
    save_file(official(), tmp_path / "dora.safetensors")
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
def test_what_peft_cannot_compute_is_refused_by_name(beside: bool, tmp_path: Path) -> None:
    good, module = official(), next(iter(MODULES))
    columns = {f"{module}.dora_scale": torch.ones(1, 24)}
    short = {f"{module}.dora_scale": torch.ones(3, 1)}
    missing = {name: t for name, t in good.items() if name != f"{module}.dora_scale"}
    alone = {name: t for name, t in good.items() if not name.startswith(f"{module}.lora")}
    patterned = tmp_path / "adapter_config.json"
    cases = {
        "1 layers have a magnitude of each column.*blocks.0.attn1.to_q": good | columns,
        "1 layers have no magnitude.*blocks.0.attn1.to_q": missing,
        "1 layers do not fit .blocks.0.attn1.to_q": good | short,
        "1 layers do not fit .blocks.0.attn1": alone,
        "an alpha for each layer .to_q": good,
    }
    pipe, file = toy_pipeline(), tmp_path / "dora.safetensors"

    def use() -> None:
        if beside:
            pipe.load_lora_weights(file, "style")
        else:
            merge_lora(pipe.transformer, file)

    for message, state in cases.items():
        save_file(state, file)
        if "alpha" in message:
            patterned.write_text('{"lora_alpha": 4, "alpha_pattern": {"to_q": 2}}')
        with pytest.raises(WrongModelError, match=message):
            use()
    check(pipe.transformer.state_dict(), {})
