"""LoRA: the update is W + scale x alpha / rank x B A, under every naming, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from tests.models.checkpoints.adapters import (
    KINDS,
    MODULES,
    RANK,
    Kind,
    adapter,
    differences,
    extracted,
)
from tests.toys import toy_transformer
from tethercache.backbones import attach
from tethercache.errors import MissingModelError, UnsafeModelError, WrongModelError
from tethercache.models.checkpoints import lora
from tethercache.models.checkpoints.lora import add_lora, merge_lora
from tethercache.policies.window import Window

pytest.importorskip("peft", reason="LoRA is an extra")

NAMED = [f"{number}: {kind.what}" for number, kind in enumerate(KINDS)]


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


@pytest.mark.parametrize("kind", KINDS, ids=NAMED)
def test_every_kind_of_adapter_is_merged_or_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    save_file(kind.make(), tmp_path / "file.safetensors")
    model, expected = toy_transformer(), toy_transformer().state_dict()
    if kind.refused:
        with pytest.raises(WrongModelError, match=kind.refused) as raised:
            merge_lora(model, tmp_path / "file.safetensors")
        assert "\n" not in str(raised.value)
    else:
        merge_lora(model, tmp_path / "file.safetensors")
        expected |= kind.values()
    merged = model.state_dict()
    assert list(merged) == list(expected)
    for name, tensor in expected.items():
        assert torch.allclose(merged[name], tensor, atol=1e-6), name


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=NAMED)
def test_every_kind_of_adapter_stays_beside_the_weights_or_is_refused(kind: Kind) -> None:
    model = toy_transformer()
    refused = kind.refused or ("can only be merged" if kind.merged_only else "")
    if refused:
        with pytest.raises(WrongModelError, match=refused):
            add_lora(model, kind.make(), "style")
        return
    add_lora(model, kind.make(), "style")
    for name, weight in kind.values().items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        x = torch.randn(2, 5, weight.shape[1])
        assert torch.allclose(layer(x), functional.linear(x, weight, layer.bias), atol=1e-5)


def test_differences_of_whole_weights_have_the_scale_too(tmp_path: Path) -> None:
    state, scale = extracted(), -0.5
    model, changed = toy_transformer(), toy_transformer().state_dict()
    for name, difference in differences().items():
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
    save_file({name: t[:, :1].clone() for name, t in good.items()}, tmp_path / "shape")
    torch.save({"generator_lora": good, "x": Path}, tmp_path / "code")
    (tmp_path / "hollow").mkdir()
    before = {name: t.clone() for name, t in toy_transformer().state_dict().items()}
    model = toy_transformer()
    for name, error, message in (
        ("block", WrongModelError, "1 layers do not fit .blocks.9"),
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
