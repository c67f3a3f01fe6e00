"""`python -m tests.golden FOLDER`: compare every `run_*.safetensors` of a folder with this project.

One line a run: largest latent and cache differences with diffusers' float32 time sinusoid and with
a float64 one, whether the memory indices are equal, and the largest score difference. A run whose
options this project refuses is printed as refused. Exit status 1 if a run is outside its tolerance
or there is none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.golden.runner import TOLERANCES, Refused, run


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
        equal = all(result.indices_equal for result in results.values())
        within = all(results[name].within(TOLERANCES[name]) for name in TOLERANCES)
        failed |= not within
        print(
            f"{path.stem}: {'ok' if within else 'FAILED'}"
            + "".join(
                f" | {name} sinusoid: latents {r.latents:.1e}, caches {r.caches:.1e}"
                for name, r in results.items()
            )
            + f" | memory indices {'equal' if equal else 'DIFFER'}"
            f" | scores {max(r.scores for r in results.values()):.1e}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
