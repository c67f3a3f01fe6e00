"""The guides tell the truth: their commands are run, in their order, on a toy model."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests import pages
from tests.conftest import ROOT
from tethercache.cli.app import run

GUIDES = ("durable.md", "prompts-over-time.md")


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
                if words[0] == "generate":
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
