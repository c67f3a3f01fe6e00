"""Does another commit make the same videos? Ten fixed requests and the golden runs, two commits.

    python benchmarks/same.py main~20 HEAD

Each commit's sources, taken out of git into a temporary folder, make ten short videos through the
command line; what is compared are the hashes of the raw frames that each record holds. Then each
repeats the golden runs; what is compared are the verdicts and the distances of latents and caches
that they print, because the table has been written in several ways. Prints a table, then one JSON
line; the exit status is 1 if anything differs. Bits depend on the machine, so both commits
have to run on one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from commits import git, sources

RED = "a red ball rolling over grass"
BLUE = "a blue cube bouncing over sand at night"
REQUESTS = {
    "tethercache": [RED, "--seconds", "8"],
    "sink": [RED, "--seconds", "8", "--policy", "sink"],
    "fifo": [RED, "--seconds", "8", "--policy", "fifo"],
    "absolute": [BLUE, "--seconds", "4", "--policy", "sink:window=12,positions=absolute"],
    "settings": [BLUE, "--seconds", "5", "--policy", "tethercache:memory=5,alpha=0.2,tau=0.5"],
    "seed": [BLUE, "--seconds", "2", "--seed", "7"],
    "latent frames": [RED, "--latent-frames", "14"],
    "preview": [RED, "--seconds", "2", "--decoder", "preview"],
    "bfloat16": [BLUE, "--seconds", "2", "--dtype", "bfloat16"],
    "overlap": [BLUE, "--seconds", "3", "--overlap", "on"],
}


def run(command: list[str], place: Path) -> str:
    """What a command prints, run with the sources of a commit."""
    settings = {"PYTHONPATH": str(place / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=place,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def frames_hash(arguments: list[str], place: Path) -> str:
    """The hash of the frames of one request; older records made that of all frames another way."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        run(["tethercache", "generate", *arguments, "-o", str(video)], place)
        chunks = json.loads(video.with_suffix(".json").read_text())["chunk_hashes"]
        return hashlib.sha256("".join(chunks).encode()).hexdigest()


def numbers(table: str) -> list[tuple[str, ...]]:
    """Runs with their verdicts, and how far latents and caches are, of a table of golden runs."""
    return re.findall(r"^(run_\w+): (\w+)|(latents|caches) ([\d.e+-]+)", table, re.M)


def main() -> int:
    """Compare two commits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the commit to compare with")
    parser.add_argument("new", nargs="?", default="HEAD", help="default HEAD")
    options = parser.parse_args()
    names = [
        git("rev-parse", "--short=10", "--verify", f"{name}^{{commit}}").decode().strip()
        for name in (options.old, options.new)
    ]
    same: dict[str, bool] = {}
    with sources(names, ("src", "tests")) as folders:
        old, new = (folder.parent for folder in folders)
        for name, arguments in REQUESTS.items():
            hashes = [frames_hash(arguments, place) for place in (old, new)]
            same[name] = hashes[0] == hashes[1]
            print(f"{name:14} {hashes[0][:12]} {hashes[1][:12]} {same[name] or 'DIFFERS'}")
        tables = [run(["tests.golden", "tests/golden"], place) for place in (old, new)]
        same["golden runs"] = bool(numbers(tables[0])) and numbers(tables[0]) == numbers(tables[1])
    print(f"{'golden runs':14} {same['golden runs'] or 'DIFFER'}")
    print(tables[1] if same["golden runs"] else "\n".join(tables))
    print(json.dumps({"benchmark": "same", "old": names[0], "new": names[1], "same": same}))
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
