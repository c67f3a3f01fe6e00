"""Does the package install and work under other Pythons and versions, from the wheel alone?

Builds the wheel once. Then, for each interpreter: a fresh virtual environment, the wheel with a
constraints file, and one short video made in an empty folder. Prints a table, then one JSON line;
the exit status is 1 if an interpreter failed.

    python benchmarks/pythons.py python3.12 python3.13 > benchmarks/results/pythons.txt
    python benchmarks/pythons.py python3 --constraints constraints-lowest.txt
    python benchmarks/pythons.py python3 --constraints newest

torch is installed first and by itself, so that pip takes a CPU build where one is offered. Where
none is, as for some Pythons on Linux, several gigabytes come along.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red ball rolling over grass"
VERSIONS = """
import json, platform
from importlib.metadata import version
names = ("torch", "diffusers", "transformers", "numpy", "av")
print(json.dumps({"python": platform.python_version()} | {name: version(name) for name in names}))
"""


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, built into `folder`."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_python(python: str, wheel: Path, folder: Path, constraints: Path | None) -> dict[str, Any]:
    """Install the wheel for one interpreter and make a video; what was there, and how it went."""
    home = folder / "venv"
    inside = home / "bin" / "python"
    install = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    install += ["-c", constraints] if constraints else []
    generate = [inside, "-m", "tethercache", "generate", PROMPT, "--seconds", "2", "-o", "ball.mp4"]
    started = time.perf_counter()
    for step, command in {
        "venv": [python, "-m", "venv", home],
        "torch": [*install, "torch"],
        "wheel": [*install, wheel],
        "versions": [inside, "-c", VERSIONS],
        "generate": generate,
    }.items():
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            error = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"interpreter": Path(python).name, "failed": step, "error": error}
        if step == "versions":
            found = json.loads(done.stdout)
    return {
        "interpreter": Path(python).name,
        **found,
        "video_bytes": (folder / "ball.mp4").stat().st_size,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Try every interpreter named and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="interpreters to try")
    parser.add_argument(
        "--constraints",
        default="constraints.txt",
        help="file of the versions to install; `newest`: what the registry offers",
    )
    arguments = parser.parse_args()
    pythons, named = arguments.pythons, arguments.constraints
    constraints = None if named == "newest" else Path(named).resolve(strict=True)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        for number, python in enumerate(pythons):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            result = try_python(python, wheel, folder, constraints)
            results.append(result)
            shown = result.get("error") and f"failed at {result['failed']}: {result['error']}"
            shown = shown or ", ".join(f"{key} {value}" for key, value in result.items())
            print(f"{Path(python).name}: {shown}", flush=True)
    print(json.dumps({"machine": platform.machine(), "constraints": named, "pythons": results}))
    sys.exit(any("failed" in result for result in results))


if __name__ == "__main__":
    main()
