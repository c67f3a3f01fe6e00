"""Does memory grow with the length of the video, and how fast is the shipped model?

Runs `tethercache generate` as a newcomer would, once for each length, as a process of its own, and
reads the operating system's account of it: wall time from start to finished file (imports and
loading included), peak resident set. Prints a table, then one JSON line.

    python benchmarks/length.py --seconds 30 --seconds 240 > benchmarks/results/length-cpu.txt
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

PROMPT = "a red ball rolling over grass"


def measure(seconds: float, policy: str, folder: Path) -> dict[str, Any]:
    """Generate one video in a child process and return what it took."""
    command = [sys.executable, "-m", "tethercache", "generate", PROMPT, "--json"]
    command += ["--seconds", str(seconds), "--policy", policy]
    command += ["-o", str(folder / f"{seconds:g}.mp4")]
    folder.mkdir(exist_ok=True)
    command.append("--overwrite")
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"generate failed with status {process.returncode}")
    (video,) = json.loads(printed.splitlines()[-1])["videos"]
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "policy": policy,
        "seconds": seconds,
        "wall_seconds": round(time.perf_counter() - started, 2),
        "frames_per_second": video["frames_per_second"],
        "peak_rss_mb": round(usage.ru_maxrss * unit / 2**20, 1),
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of several runs, and the range of the peaks, which loading decides."""
    row = runs[0] | {
        key: round(statistics.median(run[key] for run in runs), 2)
        for key in ("wall_seconds", "frames_per_second", "peak_rss_mb")
    }
    peaks = [run["peak_rss_mb"] for run in runs]
    return row | {"runs": len(runs), "peak_rss_range_mb": [min(peaks), max(peaks)]}


def main() -> None:
    """Measure every length and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, action="append", help="lengths; default 30, 240")
    parser.add_argument("--policy", default="tethercache")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each length; medians count")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            summarise(
                [
                    measure(seconds, arguments.policy, Path(folder) / str(run))
                    for run in range(arguments.repeat)
                ]
            )
            for seconds in arguments.seconds or [30.0, 240.0]
        ]
    print(f"{'policy':<14}{'video s':>9}{'wall s':>9}{'frames/s':>10}{'peak RSS MB':>13}  range")
    for row in rows:
        print(
            f"{row['policy']:<14}{row['seconds']:>9g}{row['wall_seconds']:>9}"
            f"{row['frames_per_second']:>10}{row['peak_rss_mb']:>13}  "
            f"{row['peak_rss_range_mb'][0]:g} to {row['peak_rss_range_mb'][1]:g}"
        )
    machine = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps({"cases": rows, "machine": machine}))


if __name__ == "__main__":
    main()
