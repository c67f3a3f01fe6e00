"""`python -m tests.golden FOLDER`: compare every `run_*.safetensors` of a folder with this project.

One line a run: largest differences of latents, caches and scores with diffusers' float32 time
sinusoid and with a float64 one, and whether the memory indices are equal; what a file does not hold
is nothing to compare. A run whose options this project refuses is printed as refused. Exit status 1
if a run is outside its tolerance or there is none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.golden.runner import TOLERANCES, Comparison, Refused, run

NOTHING = "nothing to compare"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with model, inputs and runs")
    folder = parser.parse_args().folder
    paths = sorted(folder.glob("run_*.safetensors"))
    if not paths:
        print(f"no run_*.safetensors in {folder}", file=sys.stderr)
        return 1
    failed = False
    for path in paths:
        try:
            results = {name: run(folder, path, name) for name in TOLERANCES}
        except Refused as reason:
            print(f"{path.stem}: refused: {reason}")
            continue
        within = all(results[name].within(TOLERANCES[name]) for name in TOLERANCES)
        failed |= not within
        described = " | ".join(_describe(name, result) for name, result in results.items())
        print(f"{path.stem}: {'ok' if within else 'FAILED'} | {described}")
    return int(failed)


def _describe(sinusoid: str, result: Comparison) -> str:
    differences = ", ".join(
        f"{name} {NOTHING if difference is None else format(difference, '.1e')}"
        for name, difference in (
            ("latents", result.latents),
            ("caches", result.caches),
            ("scores", result.scores),
        )
    )
    indices = {True: "equal", False: "DIFFER", None: NOTHING}[result.indices_equal]
    return f"{sinusoid} sinusoid: {differences}, memory indices {indices}"


if __name__ == "__main__":
    sys.exit(main())
