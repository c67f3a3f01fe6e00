"""LoRA: the update is W + scale x alpha / rank x B A, under every naming, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.toys import toy_transformer
from tethercache.backbones import attach
from tethercache.errors import MissingModelError, UnsafeModelError, WrongModelError
from tethercache.models.checkpoints import lora
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.policies.window import Window

pytest.importorskip("peft", reason="LoRA is an extra")

MODULES = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
}
RANK = 2


def adapter(down: str = "lora_A", up: str = "lora_B", prefix: str = "") -> dict[str, Tensor]:
    """A random adapter under official names."""
    state, random = {}, torch.Generator().manual_seed(5)
    model = toy_transformer()
    for official, name in MODULES.items():
        layer = model.get_submodule(name)
        for side, shape in (
            (down, (RANK, layer.in_features)),
            (up, (layer.out_features, RANK)),
        ):
            key = f"{prefix}{official}.{side}.weight"
            state[key] = torch.randn(shape, generator=random)
    return state


def check(path: Path, scale: float = 1.0, strength: float = 1.0) -> None:
    """Merging the file changes exactly the weights that it should."""
    model, plain, expected = toy_transformer(), adapter(), toy_transformer().state_dict()
    for official, name in MODULES.items():
        update = plain[f"{official}.lora_B.weight"] @ plain[f"{official}.lora_A.weight"]
        expected[f"{name}.weight"] += scale * strength * update
    merge_lora(model, path, scale)
    merged = model.state_dict()
    assert list(merged) == list(expected)
    for name, tensor in expected.items():
        assert torch.allclose(merged[name], tensor, atol=1e-6), name
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_longlive_s_file_of_peft_names_is_merged(scale: float, tmp_path: Path) -> None:
    state = adapter(prefix="base_model.model.")
    critic = {name: torch.zeros_like(t) for name, t in state.items()}
    torch.save({"critic_lora": critic, "generator_lora": state}, tmp_path / "lora.pt")
    check(tmp_path / "lora.pt", scale)


def test_names_of_other_tools_are_understood(tmp_path: Path) -> None:
    save_file(adapter(prefix="diffusion_model."), tmp_path / "comfy.safetensors")
    check(tmp_path / "comfy.safetensors")
    save_file(adapter("lora_down", "lora_up"), tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors")
    renamed = {}
    for name, tensor in adapter().items():
        module, side = name.split(".lora_")
        renamed[f"transformer.{MODULES[module]}.lora_{side}"] = tensor
    save_file(renamed, tmp_path / "pytorch_lora_weights.safetensors")
    check(tmp_path)


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as kohya and musubi write them."""
    renamed = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".lora_")
        renamed[f"lora_unet_{module.replace('.', '_')}.lora_{rest}"] = tensor
    return renamed


@pytest.mark.parametrize("alpha", [RANK, 1])
def test_the_flat_names_of_kohya_and_musubi_are_understood(alpha: int, tmp_path: Path) -> None:
    state = flat(adapter("lora_down", "lora_up"))
    for module in {name.partition(".")[0] for name in state}:
        state[f"{module}.alpha"] = torch.tensor(float(alpha))
    save_file(state, tmp_path / "musubi.safetensors")
    check(tmp_path / "musubi.safetensors", strength=alpha / RANK)


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_differences_of_whole_weights_are_added(scale: float, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(9)
    model, changed = toy_transformer(), toy_transformer().state_dict()
    state = adapter(prefix="diffusion_model.")
    for official, name in {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "patch_embedding.diff": "patch_embedding.weight",
        "head.head.diff": "proj_out.weight",
    }.items():
        difference = torch.randn(changed[name].shape, generator=random)
        state[f"diffusion_model.{official}"] = difference
        changed[name] = changed[name] + scale * difference
    save_file(state, tmp_path / "lightx2v.safetensors")
    merge_lora(model, tmp_path / "lightx2v.safetensors", scale)
    adapted = {f"{name}.weight" for name in MODULES.values()}
    for name, tensor in model.state_dict().items():
        if name not in adapted:
            assert torch.allclose(tensor, changed[name], atol=1e-6), name
        else:
            assert not torch.equal(tensor, changed[name]), name
    state["diffusion_model.patch_embedding.diff"] = torch.zeros(3)
    save_file(state, tmp_path / "wrong.safetensors")
    before = toy_transformer()
    with pytest.raises(WrongModelError, match=r"layers do not fit .patch_embedding.weight"):
        merge_lora(before, tmp_path / "wrong.safetensors")
    assert all(
        torch.equal(before.state_dict()[n], t) for n, t in toy_transformer().state_dict().items()
    )


def test_alpha_scales_the_update(tmp_path: Path) -> None:
    alphas = {f"{module}.alpha": torch.tensor(1.0) for module in MODULES}
    save_file(adapter() | alphas, tmp_path / "lora.safetensors")
    check(tmp_path / "lora.safetensors", strength=1 / RANK)
    (tmp_path / "peft").mkdir()
    save_file(adapter(prefix="base_model.model."), tmp_path / "peft/adapter_model.safetensors")
    (tmp_path / "peft/adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": RANK}))
    check(tmp_path / "peft", strength=8 / RANK)


def test_a_merged_model_attaches_like_any_other(tmp_path: Path) -> None:
    save_file(adapter(), tmp_path / "lora.safetensors")
    model = toy_transformer()
    merge_lora(model, tmp_path / "lora.safetensors")
    x, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 6, 8)
    with torch.no_grad(), attach(model, Window()) as session, session.chunk(3):
        with session.context_pass():
            flow = model(x, torch.tensor([0.0]), text).sample
        with pytest.raises(AssertionError):
            torch.testing.assert_close(flow, toy_transformer()(x, torch.tensor([0.0]), text).sample)


def test_bad_adapters_are_one_clear_line_each(tmp_path: Path) -> None:
    good = adapter()
    save_file(good | {"blocks.9.self_attn.q.lora_A.weight": torch.zeros(2, 24)}, tmp_path / "block")
    save_file(good | {"blocks.0.self_attn.q.hada_w1_a": torch.ones(24, 1)}, tmp_path / "loha")
    save_file({name: t[:, :1].clone() for name, t in good.items()}, tmp_path / "shape")
    torch.save({"generator_lora": good, "x": Path}, tmp_path / "code")
    (tmp_path / "hollow").mkdir()
    before = {name: t.clone() for name, t in toy_transformer().state_dict().items()}
    model = toy_transformer()
    for name, error, message in (
        ("block", WrongModelError, "1 layers do not fit .blocks.9"),
        ("loha", WrongModelError, "1 tensors are no LoRA .blocks.0.self_attn.q.hada_w1_a"),
        ("shape", WrongModelError, "4 layers do not fit"),
        ("code", UnsafeModelError, "nothing was executed"),
        ("hollow", MissingModelError, "no adapter in"),
        ("nothing", MissingModelError, "no checkpoint"),
    ):
        with pytest.raises(error, match=message) as raised:
            merge_lora(model, tmp_path / name)
        assert "\n" not in str(raised.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_without_peft_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match=r"pip install 'tethercache\[lora\]'"):
        merge_lora(toy_transformer(), tmp_path / "lora.safetensors")
