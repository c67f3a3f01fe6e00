"""What a command line loads before it does anything: no library that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import typer

from tests.cli.test_app import commands
from tethercache.cli.app import app

HELP = [
    ["--help"],
    ["--version"],
    *([*name.split(), "--help"] for name, _ in commands(typer.main.get_command(app))),
]
MISTAKES = [
    ["nonsense"],
    ["generate"],
    ["generate", "x", "--seconds", "-1"],
    ["generate", "x", "--seconds", "soon"],
    ["generate", "x", "--seconds", "1", "--latent-frames", "3"],
    ["generate", "x", "--latent-frames", "0"],
    ["generate", "x", "--num-samples", "0"],
    ["generate", "x", "--vram", "much"],
    ["generate", "x", "--attention", "quick"],
    ["generate", "--prompts", "nothing.txt"],
    ["generate", "x", "--output", "video.avi"],
    ["generate", "x", "--prefix", "."],
    ["eval", "nothing.mp4"],
    ["eval", "."],
    ["eval"],
    ["eval", "nothing.mp4", "--jobs", "0"],
    ["eval", "nothing.mp4", "--weights-dir", "."],
    ["bench", "--case", "huge"],
    ["bench", "--chunks", "1"],
    ["bench", "--threads", "0"],
    ["models", "convert", "a", "b", "--like", "nothing"],
]
SPECS = [
    ["policies"],
    ["generate", "x", "--policy", "tethercash"],
    ["generate", "x", "--policy", "tethercache:alpha=much"],
    ["generate", "x", "--policy", "tethercache:memory=13"],
    ["bench", "--policy", "sinkk"],
]

CHILD = """
import json, sys
from tethercache.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print("AFTER", json.dumps([arguments, status, loaded]))
"""


def check(lines: list[list[str]], unwanted: tuple[str, ...], cwd: Path) -> list[int]:
    """Run command lines in one fresh process, after each of which nothing of `unwanted` is loaded.

    Returns:
        Their exit statuses.
    """
    command = [sys.executable, "-c", CHILD, json.dumps(lines), json.dumps(unwanted)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    said = [line[6:] for line in done.stdout.splitlines() if line.startswith("AFTER ")]
    arguments, statuses, loaded = zip(*map(json.loads, said), strict=True)
    assert list(arguments) == lines
    assert dict(zip(map(" ".join, lines), loaded, strict=True)) == {" ".join(a): [] for a in lines}
    return list(statuses)


def test_help_loads_no_library(tmp_path: Path) -> None:
    unwanted = ("torch", "diffusers", "transformers", "numpy", "av", "cv2")
    assert set(check(HELP, unwanted, tmp_path)) == {0}


def test_mistakes_that_need_no_policy_load_no_library(tmp_path: Path) -> None:
    assert set(check(MISTAKES, ("torch", "diffusers", "transformers"), tmp_path)) == {2}


def test_policies_do_not_load_diffusers(tmp_path: Path) -> None:
    first, *others = check(SPECS, ("diffusers", "transformers"), tmp_path)
    assert first == 0
    assert set(others) == {2}
