"""The guides tell the truth: their commands are run, in their order, on a toy model."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests import pages
from tests.conftest import ROOT
from tethercache.cli.app import run
from tethercache.pipeline.refused import REASONS

GUIDES = (
    pytest.param("comparing.md", marks=pytest.mark.slow),
    "durable.md",
    "prompts-over-time.md",
    "traces.md",
)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_and_every_line_of_python_of_a_guide_runs(
    guide: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for language, block in pages.blocks((ROOT / "docs" / guide).read_text("utf-8")):
        if language == "bash":
            for line in pages.commands(f"```bash\n{block}\n```"):
                words = shlex.split(line)[1:]
                if words[0] in ("generate", "compare"):
                    words += ["--model", str(model)]
                assert run(words) == 0, line
                ran += 1
        elif language == "yaml":
            name, _, content = block.removeprefix("# ").partition("\n")
            Path(name).write_text(content)
        elif language == "python":
            exec(
                compile(block.replace("seed=5", f"seed=5, model={str(model)!r}"), guide, "exec"), {}
            )
            ran += 1
    assert ran > 2


def test_every_block_of_the_page_about_diffusers_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="LoRA is an extra")
    from tests.models.checkpoints.test_lora import adapter

    for module in ("dynamic_modules_utils", "constants"):  # where code of models is copied to
        monkeypatch.setattr(f"diffusers.utils.{module}.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    save_file(adapter(), "style.safetensors")
    page, names = (ROOT / "docs/diffusers.md").read_text("utf-8"), {}
    blocks = [block for language, block in pages.blocks(page) if language == "python"]
    assert len(blocks) == page.count("```") // 2
    for block in blocks:
        if "torchao" not in block or importlib.util.find_spec("torchao"):
            told = block.replace('"tiny"', repr(str(model)))
            exec(compile(told, "diffusers.md", "exec"), names)
    assert len(names["video"]) in (9, 33)
    assert all(f"`{name}`" in page for name in REASONS)
