"""A folder that is not what it says is refused in one line before anything in it is built."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toys import toy_pipeline
from tethercache.errors import (
    DamagedModelError,
    MissingModelError,
    TetherCacheError,
    WrongModelError,
)
from tethercache.fit.sizes import measure
from tethercache.models import fetch, find
from tethercache.models.folders import check
from tethercache.pipeline import CausalVideoPipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reshape(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(path)
    edit(state)
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)


def test_a_folder_that_this_project_wrote_passes(folder: Path) -> None:
    check(folder)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("vae", ["os", "system"], "the vae of .* is a os.system; it must be AutoencoderKLWan"),
        ("text_encoder", ["antigravity", "T5EncoderModel"], "must be T5EncoderModel or"),
        ("transformer", ["diffusers", "FluxTransformer2DModel"], "must be WanTransformer3DModel"),
        ("scheduler", ["elsewhere", "FlowMatchLCMScheduler"], "must be FlowMatchLCMScheduler"),
        ("tokenizer", ["transformers", "AutoTokenizer"], "must be PreTrainedTokenizerFast or"),
        ("tokenizer", 3, "names no tokenizer"),
        ("transformer", [], "names no transformer"),
        ("transformer", None, "names no transformer"),
    ],
)
def test_only_known_classes_are_made(folder: Path, part: str, entry: Any, message: str) -> None:
    change(folder / "model_index.json", **{part: entry})
    with pytest.raises(WrongModelError, match=message):
        CausalVideoPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("text_encoder/config.json", {"num_layers": 10**6}, r"`num_layers` \(1000000\)"),
        ("text_encoder/config.json", {"d_model": 10**9}, r"`d_model` \(1000000000\)"),
        ("text_encoder/config.json", {"num_labels": 10**9}, "`num_labels`"),
        ("text_encoder/config.json", {"d_model": 80}, "6 missing|of another shape"),
        ("text_encoder/config.json", {"num_layers": 500}, "missing"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "asks for code"),
        ("text_encoder/config.json", {"d_ff": "many"}, "cannot load"),
        ("transformer/config.json", {"num_layers": 999}, "missing .blocks.2.scale"),
        ("transformer/config.json", {"rope_max_seq_len": 10**12}, "`rope_max_seq_len`"),
        ("transformer/config.json", {"eps": float("nan")}, r"`eps` \(nan\) must be a finite"),
        ("transformer/config.json", {"eps": "1e-6"}, r"`eps` \('1e-6'\) must be of the type float"),
        ("transformer/config.json", {"eps": None}, r"`eps` \(None\) must be of the type float"),
        ("transformer/config.json", {"patch_size": [1] * 2000}, r"`len\(patch_size\)`"),
        ("vae/config.json", {"base_dim": 1024}, "of another shape"),
        ("vae/config.json", {"dim_mult": [1] * 900}, "cannot load|missing"),
        ("vae/config.json", {"dropout": "0"}, "`dropout`"),
        ("vae/config.json", {"temperal_downsample": [1.5, True]}, "`temperal_downsample`"),
        ("vae/config.json", {"latents_mean": [0.0]}, r"`latents_mean` \(1\) must be `z_dim`"),
        ("vae/config.json", {"latents_std": [1.0, 0.0, 1.0, 1.0]}, "`latents_std` must be above"),
        ("vae/config.json", {"scale_factor_spatial": 8}, "must be the 4 of its layers"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}, "must be a whole"),
        ("scheduler/scheduler_config.json", {"shift": [5]}, "`shift`"),
        ("scheduler/scheduler_config.json", {"time_shift_type": "none"}, "`time_shift_type`"),
        ("tokenizer/tokenizer.json", {"model": {"type": "None"}}, "cannot load"),
        ("tokenizer/tokenizer.json", {"added_tokens": [{"id": -1}]}, "cannot load"),
        ("tokenizer/tokenizer_config.json", {"pad_token": None}, "cannot load the tokenizer"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, "cannot load the tokenizer"),
    ],
)
def test_configurations_of_nonsense_are_refused_at_once(
    folder: Path, file: str, values: dict[str, Any], message: str
) -> None:
    change(folder / file, **values)
    started = time.process_time()
    with pytest.raises(TetherCacheError, match=message) as raised:
        CausalVideoPipeline.from_pretrained(folder)
    assert time.process_time() - started < 10
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("vae", "latents_mean", r"`latents_mean` \(16\) must be `z_dim` \(4\)"),
        ("vae", "latents_std", r"`latents_std` \(16\) must be `z_dim` \(4\)"),
        ("vae", "scale_factor_spatial", "must be the 4 of its layers"),
    ],
)
def test_what_a_configuration_leaves_out_has_the_default_of_its_class(
    folder: Path, part: str, key: str, message: str
) -> None:
    path = folder / part / "config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))
    with pytest.raises(DamagedModelError, match=message):
        CausalVideoPipeline.from_pretrained(folder)


def test_weights_are_compared_with_the_configuration(folder: Path) -> None:
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    reshape(vae, lambda state: state.pop("quant_conv.weight"))
    with pytest.raises(WrongModelError, match=r"1 missing \(quant_conv.weight\)"):
        CausalVideoPipeline.from_pretrained(folder)


def test_a_tied_weight_may_be_stored_once(folder: Path) -> None:
    weights = folder / "text_encoder/model.safetensors"
    assert "encoder.embed_tokens.weight" not in load_file(weights)
    check(folder)


def test_a_token_that_the_text_encoder_does_not_know_is_found_at_once(folder: Path) -> None:
    change(folder / "text_encoder/config.json", vocab_size=5)
    weights = folder / "text_encoder/model.safetensors"
    reshape(weights, lambda state: state.update({"shared.weight": state["shared.weight"][:5]}))
    with pytest.raises(DamagedModelError, match=r"highest token` \(10\) must be .* from 0 to 4"):
        CausalVideoPipeline.from_pretrained(folder)


def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    weights = folder / "text_encoder/model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(DamagedModelError, match="is not a file"):
        CausalVideoPipeline.from_pretrained(folder)
    weights.unlink()
    torch.save({}, folder / "text_encoder/pytorch_model.bin")
    with pytest.raises(DamagedModelError, match=r"no safetensors; pytorch_model.bin is not read"):
        CausalVideoPipeline.from_pretrained(folder)
    (folder / "vae/config.json").unlink()
    with pytest.raises(MissingModelError, match=r"no file .*vae/config.json"):
        CausalVideoPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_weights_that_are_no_numbers_are_warned_of(
    folder: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    (weights,) = (folder / part).glob("*.safetensors")
    name = min(load_file(weights))
    reshape(weights, lambda state: state[name].view(-1)[-1:].fill_(float("inf")))
    with caplog.at_level(logging.WARNING, "tethercache.pipeline"):
        CausalVideoPipeline.from_pretrained(folder)
    assert f"the {part} has NaN or infinite weights: 1 tensors ({name})" in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, 16])
def test_a_number_format_must_be_one(folder: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"`dtype` .* must be a floating-point"):
        CausalVideoPipeline.from_pretrained(folder, torch_dtype=dtype)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vae/config.json", {"scale_factor_spatial": 0}, r"`scale_factor_spatial` \(0\)"),
        ("vae/config.json", {"base_dim": "wide"}, r"`base_dim` \('wide'\)"),
        ("model_index.json", {"height": 100}, r"`height` \(100\) must be a multiple of 8"),
    ],
)
def test_sizes_of_nonsense_are_refused_before_memory_is_counted(
    folder: Path, file: str, values: dict[str, Any], message: str
) -> None:
    change(folder / file, **values)
    with pytest.raises(DamagedModelError, match=message):
        measure(fetch(find(str(folder))))
