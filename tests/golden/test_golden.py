"""The official runs, repeated through the public code paths."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT
from tests.golden.runner import TOLERANCES, Comparison, Refused, run

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("sinusoid", TOLERANCES)
@pytest.mark.parametrize("name", ["run_tc_main", "run_tc_tau0", "run_fifo_s3"])
def test_an_official_run_is_repeated_within_tolerance(name: str, sinusoid: str) -> None:
    result = run(FOLDER, FOLDER / f"{name}.safetensors", sinusoid)
    assert result.within(TOLERANCES[sinusoid]), result


def _changed_copy(folder: Path, name: str, *, without: str = "-", **options: str) -> Path:
    """A copy of a run with other options, without the tensors whose names match `without`."""
    for file in ("model", "inputs"):
        shutil.copy(FOLDER / f"{file}.safetensors", folder)
    path = FOLDER / "run_tc_main.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | options
    kept = {key: t for key, t in load_file(path).items() if not re.match(without, key)}
    save_file(kept, folder / f"{name}.safetensors", metadata)
    return folder / f"{name}.safetensors"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"K": "20"}, "reached by whole chunks"),
        ({"R": "2"}, "at least"),
        ({"noise_frames": "48"}, "prefix"),
        ({"alpha": "much"}, "much"),
    ],
)
def test_options_out_of_reach_are_refused_before_anything_is_read(
    options: dict[str, str], reason: str, tmp_path: Path
) -> None:
    path = _changed_copy(tmp_path, "run", **options)
    for file in ("model", "inputs"):
        (tmp_path / f"{file}.safetensors").unlink()
    with pytest.raises(Refused, match=reason):
        run(tmp_path, path)


def test_what_a_file_does_not_hold_is_nothing_to_compare(tmp_path: Path) -> None:
    path = _changed_copy(tmp_path, "run_bare", without="grab_|mem_idx|cache_")
    result = run(tmp_path, path)
    assert (result.caches, result.scores, result.indices_equal) == (None, None, None)
    assert result.within(TOLERANCES["float32"])
    path = _changed_copy(tmp_path, "run_indices", without="grab_|cache_")
    result = run(tmp_path, path)
    assert (result.caches, result.scores, result.indices_equal) == (None, None, True)


def test_scores_are_held_to_what_the_sinusoid_allows() -> None:
    scores = {"float64": 1e-6, "float32": 2e-5}
    for sinusoid, limit in scores.items():
        for scale, expected in ((0.9, True), (1.1, False)):
            found = Comparison(latents=0.0, caches=None, scores=limit * scale, indices_equal=None)
            assert found.within(TOLERANCES[sinusoid]) is expected


def test_the_command_prints_a_line_a_run_and_fails_on_a_wrong_one(tmp_path: Path) -> None:
    _changed_copy(tmp_path, "run_good")
    _changed_copy(tmp_path, "run_k20", K="20")
    _changed_copy(tmp_path, "run_less", without="grab_")
    command = [sys.executable, "-m", "tests.golden", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    good, refused, less = done.stdout.splitlines()
    assert good.startswith("run_good: ok")
    assert "nothing" not in good
    assert refused.startswith("run_k20: refused")
    assert less.startswith("run_less: ok")
    assert less.count("scores nothing to compare") == 2
    assert less.count("memory indices equal") == 2

    _changed_copy(tmp_path, "run_wrong", alpha="0.9")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "run_wrong: FAILED" in done.stdout
