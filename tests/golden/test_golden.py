"""The official runs, repeated through the public code paths."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT
from tests.golden.runner import TOLERANCES, Refused, run

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("sinusoid", TOLERANCES)
@pytest.mark.parametrize("name", ["run_tc_main", "run_tc_tau0", "run_fifo_s3"])
def test_an_official_run_is_repeated_within_tolerance(name: str, sinusoid: str) -> None:
    result = run(FOLDER, FOLDER / f"{name}.safetensors", sinusoid)
    assert result.within(TOLERANCES[sinusoid]), result


def _changed_copy(folder: Path, name: str, **options: str) -> None:
    for file in ("model", "inputs"):
        shutil.copy(FOLDER / f"{file}.safetensors", folder)
    path = FOLDER / "run_tc_main.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | options
    save_file(load_file(path), folder / f"{name}.safetensors", metadata)


def test_a_run_with_a_budget_out_of_reach_is_refused(tmp_path: Path) -> None:
    _changed_copy(tmp_path, "run_k20", K="20")
    with pytest.raises(Refused, match="reached by whole chunks"):
        run(tmp_path, tmp_path / "run_k20.safetensors")


def test_the_command_prints_a_line_a_run_and_fails_on_a_wrong_one(tmp_path: Path) -> None:
    _changed_copy(tmp_path, "run_good")
    _changed_copy(tmp_path, "run_k20", K="20")
    command = [sys.executable, "-m", "tests.golden", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    good, refused = done.stdout.splitlines()
    assert good.startswith("run_good: ok")
    assert refused.startswith("run_k20: refused")

    _changed_copy(tmp_path, "run_wrong", alpha="0.9")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run_wrong: FAILED" in done.stdout
