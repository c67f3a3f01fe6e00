"""What is read of a checkpoint; bad ones are one clear line each, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from tests.models.checkpoints import formats, made
from tethercache.errors import (
    DamagedModelError,
    MissingModelError,
    TetherCacheError,
    UnsafeModelError,
    WrongModelError,
)
from tethercache.models.checkpoints.convert import convert
from tethercache.models.checkpoints.describe import describe
from tethercache.models.checkpoints.load import load_transformer
from tethercache.models.checkpoints.read import read_checkpoint


def test_sizes_are_read_off_the_tensors(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(formats.self_forcing_dmd(tmp_path))
    expected = made.reference().config
    assert all(tuple_(expected[k]) == tuple_(v) for k, v in describe(checkpoint).items())


def tuple_(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def test_heads_of_published_widths_are_known_and_others_must_be_told(tmp_path: Path) -> None:
    with torch.device("meta"):
        wide = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8, num_layers=1, text_dim=8)
    state = {name: torch.zeros(t.shape) for name, t in wide.state_dict().items()}
    save_file(state, tmp_path / "wide.safetensors")
    found = describe(read_checkpoint(tmp_path / "wide.safetensors"))
    assert (found["num_attention_heads"], found["attention_head_dim"]) == (12, 128)

    torch.save({"generator": made.official()}, tmp_path / "narrow.pt")
    narrow = read_checkpoint(tmp_path / "narrow.pt")
    with pytest.raises(WrongModelError, match=r"heads.*config\.json"):
        describe(narrow)
    assert describe(narrow, heads=4)["attention_head_dim"] == 32


def test_the_state_dict_can_be_chosen(tmp_path: Path) -> None:
    path = formats.self_forcing_sid(tmp_path)
    assert read_checkpoint(path).key == "generator_ema"
    chosen = read_checkpoint(path, prefer=["generator"])
    assert not chosen.state["model.patch_embedding.weight"].any()
    with pytest.raises(WrongModelError, match=r"no state dict `ema`.*generator, critic"):
        read_checkpoint(path, prefer=["ema"])


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


class Bomb:
    """Unpickling this the careless way makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (os.mkdir, (str(self.path),))


def bad_files(folder: Path) -> dict[str, tuple[type[TetherCacheError], str]]:
    """Files that are no use, each with the error it must give."""
    good = (folder / "good").mkdir() or formats.self_forcing_dmd(folder / "good")
    content, wan = good.read_bytes(), made.plain()
    (folder / "config.json").write_text(json.dumps(made.CONFIG))
    (folder / "empty.pt").touch()
    (folder / "empty.safetensors").touch()
    (folder / "cut.pt").write_bytes(content[: len(content) // 2])
    (folder / "garbled.pt").write_bytes(content.replace(b"generator_ema", b"\xff" * 13, 1))
    (folder / "page.pt").write_text("<html>not found</html>")
    (folder / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    save_file(wan, folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:5000])
    torch.save({"generator": wan, "config": Bomb(folder / "boom")}, folder / "hostile.pt")
    (folder / "hostile-pickle.pt").write_bytes(pickle.dumps(Bomb(folder / "boom"), protocol=2))
    torch.jit.script(torch.nn.Linear(1, 1)).save(folder / "script.pt")
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.save({"step": 3, "critic": wan}, folder / "critic.pt")
    torch.save({"generator": {"layers.0.weight": torch.zeros(3)}}, folder / "other.pt")
    missing = without(wan, "head.head.bias", "blocks.1.ffn.0.bias", "blocks.2.modulation")
    save_file(missing | {"vace.weight": torch.zeros(1)}, folder / "missing.safetensors")
    save_file(wan | {"head.modulation": torch.zeros(1, 3, 128)}, folder / "shape.safetensors")
    save_file(wan | {"img_emb.proj.weight": torch.zeros(1)}, folder / "i2v.safetensors")
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.zeros(1)}, folder / "lora.safetensors")
    far = {name.replace("blocks.2.", "blocks.999999999."): t for name, t in wan.items()}
    save_file(far, folder / "far.safetensors")
    flat = {"patch_embedding.weight": wan["patch_embedding.weight"].flatten(1)}
    save_file(wan | flat, folder / "flat.safetensors")
    (folder / "hollow").mkdir()
    return {
        "nothing.pt": (MissingModelError, "no checkpoint"),
        "hollow": (MissingModelError, "no weights"),
        "empty.pt": (DamagedModelError, "is empty"),
        "empty.safetensors": (DamagedModelError, "is empty"),
        "cut.pt": (DamagedModelError, "cut off"),
        "garbled.pt": (DamagedModelError, "damaged"),
        "page.pt": (DamagedModelError, "neither a safetensors nor a GGUF nor a PyTorch file"),
        "pointer.pt": (DamagedModelError, "git lfs pull"),
        "cut.safetensors": (DamagedModelError, "cut off"),
        "hostile.pt": (UnsafeModelError, "posix.mkdir"),
        "hostile-pickle.pt": (UnsafeModelError, "nothing was executed"),
        "script.pt": (UnsafeModelError, "TorchScript"),
        "tensor.pt": (WrongModelError, "holds a Tensor"),
        "critic.pt": (WrongModelError, "it has: critic"),
        "other.pt": (WrongModelError, "not a Wan transformer: 1 tensors"),
        "missing.safetensors": (WrongModelError, "3 missing .*1 unexpected .vace.weight"),
        "shape.safetensors": (WrongModelError, "1 of another shape"),
        "far.safetensors": (WrongModelError, "3 blocks, the last of number 999999999"),
        "flat.safetensors": (WrongModelError, "not a Wan transformer: 96 tensors"),
        "i2v.safetensors": (WrongModelError, "image-to-video"),
        "lora.safetensors": (WrongModelError, "--lora"),
    }


def test_bad_files_are_one_clear_line_each_and_nothing_runs(tmp_path: Path) -> None:
    for name, (error, message) in bad_files(tmp_path).items():
        with pytest.raises(error, match=message) as raised:
            convert(tmp_path / name, tmp_path / "converted")
        assert "\n" not in str(raised.value)
        assert name in str(raised.value)
        assert not (tmp_path / "converted").exists()
    assert not (tmp_path / "boom").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_with_a_missing_shard_names_it(tmp_path: Path) -> None:
    folder = formats.original_wan_shards(tmp_path)
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingModelError, match="00002-of-00002"):
        load_transformer(folder)


def strange_files(folder: Path) -> dict[str, tuple[type[TetherCacheError], str]]:
    """Files that are not what they say, each with the error it must give."""
    wan = made.plain()
    (folder / "config.json").write_text(json.dumps(made.CONFIG))
    one = torch.zeros(1)
    far = {name: one.expand(tensor.shape) for name, tensor in wan.items()}
    torch.save({"generator": far}, folder / "stride0.pt")
    torch.save({"generator": far}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"generator": dict.fromkeys(map(str, range(300)), torch.ones(64))}, folder / "v.pt")
    torch.save({"generator": {"patch_embedding.weight": one.to("meta")}}, folder / "meta.pt")
    torch.save({"generator": {"a": torch.eye(2).to_sparse()}}, folder / "sparse.pt")
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    torch.save({"generator": {str(i): i for i in range(1 << 17)}}, folder / "many.pt")
    save_file(wan | {"blocks.0.modulation": torch.zeros(1, 0, 128)}, folder / "none.safetensors")
    os.mkfifo(folder / "pipe.pt")
    (folder / "piped").mkdir()
    os.mkfifo(folder / "piped/diffusion_pytorch_model.safetensors")
    (folder / "index").mkdir()
    (folder / "index/a.safetensors.index.json").write_text('{"weight_map": {"a": "' + "b" * 300)
    (folder / "map").mkdir()
    (folder / "map/a.safetensors.index.json").write_text('{"weight_map": [1]}')
    (folder / "long").mkdir()
    names = {"weight_map": {"a": "b" * 300}}
    (folder / "long/a.safetensors.index.json").write_text(json.dumps(names))
    return {
        "stride0.pt": (DamagedModelError, "not to be believed: it declares"),
        "legacy.pt": (DamagedModelError, "not to be believed: it declares"),
        "v.pt": (DamagedModelError, "not to be believed: it declares"),
        "bomb.pt": (DamagedModelError, "it declares 10.0 MB"),
        "meta.pt": (WrongModelError, "1 tensors of a foreign kind"),
        "sparse.pt": (WrongModelError, "1 tensors of a foreign kind"),
        "many.pt": (WrongModelError, "no state dict"),
        "none.safetensors": (WrongModelError, "holds nothing in 1 tensors"),
        "pipe.pt": (DamagedModelError, "is not a file"),
        "piped": (DamagedModelError, "is not a file"),
        "index": (DamagedModelError, "cannot read"),
        "map": (DamagedModelError, "no `weight_map`"),
        "long": (MissingModelError, "lacks 1 shards"),
        "x" * 300: (MissingModelError, "no checkpoint"),
        "zero\0byte": (MissingModelError, "no checkpoint"),
    }


def test_what_a_file_declares_is_checked_before_it_is_believed(tmp_path: Path) -> None:
    for name, (error, message) in strange_files(tmp_path).items():
        with pytest.raises(error, match=message):
            describe(read_checkpoint(tmp_path / name))


@pytest.mark.parametrize(
    "hint", [{"num_heads": "4"}, {"num_heads": [4]}, {"num_heads": -4}, {"num_heads": 1e400}]
)
def test_a_configuration_of_nonsense_beside_a_checkpoint_tells_nothing(
    hint: dict[str, object], tmp_path: Path
) -> None:
    path = formats.self_forcing_dmd(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dim": 128} | hint))
    with pytest.raises(WrongModelError, match=r"heads.*config\.json"):
        load_transformer(path)


def test_the_advice_to_load_a_file_without_protection_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02}q\x00(X\x01\x00\x00\x00ac__main__\nthing\nq\x01u.")
    with pytest.raises(TetherCacheError) as raised:
        read_checkpoint(tmp_path / "bad.pt")
    assert "weights_only" not in str(raised.value)


def test_names_out_of_a_file_do_no_harm_in_a_message(tmp_path: Path) -> None:
    names = ["a\nb\x1b[31m", "x" * 10_000, "c", "d"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "odd.safetensors")
    with pytest.raises(WrongModelError, match="4 tensors, such as") as raised:
        describe(read_checkpoint(tmp_path / "odd.safetensors"))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("first", [b"PK", b"\x80"], ids=["zip", "pickle"])
def test_a_header_whose_length_looks_like_another_format_is_read(
    first: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    save_file({"a": torch.arange(3.0)}, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    padded = next(n for n in range(size, 1 << 17) if n.to_bytes(8, "little").startswith(first))
    header = content[8 : 8 + size].ljust(padded)
    path.write_bytes(padded.to_bytes(8, "little") + header + content[8 + size :])
    assert torch.equal(read_checkpoint(path).state["a"], torch.arange(3.0))
