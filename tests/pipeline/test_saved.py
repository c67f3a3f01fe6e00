"""A saved model, loaded by this project and by plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests.toys import toy_pipeline
from tethercache.models.folders import CODE, INDEX
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.window import Window

PROMPT = "a red ball rolling over grass"


@pytest.fixture(autouse=True)
def _code_is_copied_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers copies the code of a model into its cache before it runs it."""
    for module in ("dynamic_modules_utils", "constants"):
        monkeypatch.setattr(f"diffusers.utils.{module}.HF_MODULES_CACHE", str(tmp_path / "modules"))


def latents(pipe: Any) -> Tensor:
    made = pipe(PROMPT, num_frames=21, policy=Window(window=6), output_type="latent").frames
    assert isinstance(made, Tensor)
    return made


def test_plain_diffusers_loads_a_saved_model_and_makes_the_same_bits(model: Path) -> None:
    theirs = DiffusionPipeline.from_pretrained(str(model), trust_remote_code=True)
    ours = CausalVideoPipeline.from_pretrained(model)
    assert type(theirs) is type(ours) is CausalVideoPipeline
    assert torch.equal(latents(theirs), latents(ours))
    assert torch.equal(latents(theirs), latents(toy_pipeline()))


def test_without_trust_plain_diffusers_runs_nothing(model: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(str(model))


def test_what_plain_diffusers_loaded_is_saved_the_same(model: Path, tmp_path: Path) -> None:
    DiffusionPipeline.from_pretrained(str(model), trust_remote_code=True).save_pretrained(
        tmp_path / "again"
    )
    for name in (INDEX, f"{CODE}.py"):
        assert (tmp_path / "again" / name).read_text() == (model / name).read_text()


@pytest.mark.parametrize("trusted", [False, True])
def test_our_loader_never_runs_what_lies_in_a_folder(tmp_path: Path, trusted: bool) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / f"{CODE}.py").write_text("raise SystemExit('it ran')")
    options = {"trust_remote_code": True} if trusted else {}
    pipe = CausalVideoPipeline.from_pretrained(tmp_path / "model", **options)
    assert torch.equal(latents(pipe), latents(toy_pipeline()))
    with pytest.raises(ValueError, match="`custom_pipeline` is not taken"):
        CausalVideoPipeline.from_pretrained(tmp_path / "model", custom_pipeline=str(tmp_path))


def test_a_folder_of_before_loads(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    toy_pipeline().save_pretrained(folder)
    index = json.loads((folder / INDEX).read_text())
    assert index["_class_name"] == ["pipeline", "CausalVideoPipeline"]
    (folder / INDEX).write_text(json.dumps(index | {"_class_name": "CausalVideoPipeline"}))
    (folder / f"{CODE}.py").unlink()
    assert torch.equal(
        latents(CausalVideoPipeline.from_pretrained(folder)), latents(toy_pipeline())
    )


def test_a_number_format_by_either_name(model: Path) -> None:
    for name in ("dtype", "torch_dtype"):
        pipe = CausalVideoPipeline.from_pretrained(model, **{name: torch.bfloat16})
        assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="give `dtype` or `torch_dtype`"):
        CausalVideoPipeline.from_pretrained(model, dtype=torch.bfloat16, torch_dtype=torch.bfloat16)
