"""What files hold in another form: what does not fit is refused, and damage ends soon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models.checkpoints import formats, made
from tethercache.errors import DamagedModelError, MissingModelError, WrongModelError
from tethercache.models.checkpoints import ggml
from tethercache.models.checkpoints.load import load_transformer
from tethercache.models.checkpoints.names import diffusers_name
from tethercache.models.checkpoints.read import read_checkpoint
from tethercache.models.sources import Parts, find

LAYER = "blocks.0.self_attn.q"


@pytest.mark.parametrize(
    "scale",
    [torch.ones(3), torch.ones(128, 4), torch.ones(1, dtype=torch.int32), torch.ones(0)],
    ids=["rows", "oblong blocks", "whole numbers", "nothing"],
)
def test_a_scale_that_fits_no_weight_is_refused(scale: torch.Tensor, tmp_path: Path) -> None:
    state = made.plain() | {f"{LAYER}.weight_scale": scale}
    state[f"{LAYER}.weight"] = state[f"{LAYER}.weight"].to(formats.FP8)
    save_file(state, formats.configured(tmp_path) / "wan.safetensors")
    with pytest.raises(WrongModelError, match=f"1 scales that fit no weight .{LAYER}"):
        read_checkpoint(tmp_path / "wan.safetensors")


def test_a_scale_of_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    state = made.plain() | {"blocks.9.self_attn.q.scale_weight": torch.ones(1)}
    save_file(state, formats.configured(tmp_path) / "wan.safetensors")
    with pytest.raises(WrongModelError, match="scales that fit no weight"):
        read_checkpoint(tmp_path / "wan.safetensors")


def test_the_strength_of_a_saved_adapter_is_read_beside_it(tmp_path: Path) -> None:
    path = formats.wrapped_by_peft(tmp_path)
    whole = load_transformer(path).state_dict()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2}))
    half, name = load_transformer(path).state_dict(), diffusers_name(f"{LAYER}.weight")
    base = made.plain()[f"{LAYER}.weight"]
    assert torch.allclose(2 * (half[name] - base), whole[name] - base, atol=1e-5)
    config = {"lora_alpha": 2, "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert torch.allclose(load_transformer(path).state_dict()[name], whole[name], atol=1e-5)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha_pattern": {"q": 1}}))
    with pytest.raises(DamagedModelError, match="lora_alpha"):
        load_transformer(path)


def test_a_model_saved_with_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    state, _ = formats.with_adapter()
    state["base_model.model.blocks.0.self_attn.q.lora_magnitude_vector.default.weight"] = (
        torch.ones(128)
    )
    torch.save({"generator": state}, formats.configured(tmp_path) / "model.pt")
    with pytest.raises(WrongModelError, match=r"cannot be merged: 1 .*lora_magnitude"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_folder_with_one_checkpoint_is_a_model_with_a_fingerprint(tmp_path: Path) -> None:
    folder = formats.folder_with_one_checkpoint(tmp_path)
    assert find(str(folder)).path == folder
    parts = Parts(tmp_path / "base", find(str(folder)).settings, transformer=folder)
    before = parts.fingerprint()
    torch.save({"generator": made.noise(made.official())}, folder / "model.pt")
    assert parts.fingerprint() != before
    torch.save({}, folder / "other.pt")
    with pytest.raises(WrongModelError, match=r"2 checkpoints \(model.pt, other.pt\)"):
        read_checkpoint(folder)


def test_of_a_folder_too_one_state_dict_can_be_demanded(tmp_path: Path) -> None:
    folder = formats.self_forcing_sid(tmp_path).parent
    assert read_checkpoint(folder, prefer=["generator"]).key == "generator"
    with pytest.raises(WrongModelError, match="no state dict `ema`"):
        read_checkpoint(folder, prefer=["ema"])


def test_a_damaged_gguf_ends_soon_wherever_it_is_cut(tmp_path: Path) -> None:
    path = formats.gguf_q8_0(tmp_path)
    content = path.read_bytes()
    for cut in (4, 11, 20, 30, 60, 500, 2000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DamagedModelError, match="damaged or cut off"):
            read_checkpoint(path)
    # an array of more numbers than a file can have: metadata of type 9, of bytes
    key = b"a"
    entry = len(key).to_bytes(8, "little") + key + (9).to_bytes(4, "little")
    entry += (0).to_bytes(4, "little") + (1 << 62).to_bytes(8, "little")
    counts = (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + counts + entry)
    with pytest.raises(DamagedModelError, match="it ends before byte"):
        read_checkpoint(path)


def test_without_the_library_a_gguf_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wan.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(ggml.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingModelError, match=r"pip install 'tethercache\[gguf\]'"):
        read_checkpoint(tmp_path / "wan.gguf")
