"""A saved model, loaded by this project and by plain diffusers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests.conftest import ROOT
from tests.toys import toy_pipeline
from tethercache.models.checkpoints.convert import convert
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


def test_plain_diffusers_loads_a_converted_transformer_with_lent_parts(
    model: Path, tmp_path: Path
) -> None:
    whole = CausalVideoPipeline.from_pretrained(model)
    folder = convert(model / "transformer", tmp_path / "converted", settings=whole.settings)
    lent = {name: getattr(whole, name) for name in ("vae", "text_encoder", "tokenizer")}
    theirs = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True, **lent)
    assert torch.equal(latents(theirs), latents(whole))


def test_a_number_format_by_either_name(model: Path) -> None:
    for name in ("dtype", "torch_dtype"):
        pipe = CausalVideoPipeline.from_pretrained(model, **{name: torch.bfloat16})
        assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="give `dtype` or `torch_dtype`"):
        CausalVideoPipeline.from_pretrained(model, dtype=torch.bfloat16, torch_dtype=torch.bfloat16)


THEIRS = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
OURS = """
import sys
from tethercache import CausalVideoPipeline
pipe = CausalVideoPipeline.from_pretrained(sys.argv[1])
"""
HASH = """
import hashlib, torch
torch.set_num_threads(1)
made = pipe("a red ball rolling over grass", num_frames=93, seed=3, output_type="latent").frames
print(sys.modules["tethercache"].__file__)
print(hashlib.sha256(made.numpy().tobytes()).hexdigest())
"""


def fresh_environment(folder: Path) -> Path:
    """The interpreter of an environment with our wheel, and the other packages of this one."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *alone, "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", symlinks=True)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    python = folder / "env/bin/python"
    install = [*pip, "--python", str(python), "install", *alone, str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
def test_a_saved_tiny_model_makes_the_same_bits_in_plain_diffusers_and_a_fresh_environment(
    tmp_path: Path,
) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("the wheel cannot be built without hatchling")
    python = fresh_environment(tmp_path)
    pipe = CausalVideoPipeline.from_pretrained("tiny")
    pipe.save_pretrained(tmp_path / "tiny")
    made = pipe(PROMPT, num_frames=93, seed=3, output_type="latent").frames
    expected = hashlib.sha256(made.numpy().tobytes()).hexdigest()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for load in (THEIRS, OURS):
        told = subprocess.run(
            [python, "-c", load + HASH, tmp_path / "tiny"],
            env=environment,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout.split()
        assert Path(told[0]).is_relative_to(tmp_path / "env")  # not this checkout
        assert told[1] == expected
