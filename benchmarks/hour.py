"""An hour of video: does memory stay flat, and does a kill in the middle change a byte?

Makes the video twice with the shipped model, as a newcomer would: once undisturbed, once killed in
the middle (SIGKILL) and gone on with by `--resume`. While a process runs, its resident set and its
open files are read once a second. Then the files are compared, and frames in the middle of the
video are sought and decoded.

    python benchmarks/hour.py --folder hour > benchmarks/results/hour.txt

It can be stopped and started again: it goes on with what is in the folder. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np

PROMPT = "a red ball rolling over green grass"
_HEAD = ("elapsed_seconds", "bytes", "resident_mb", "open_files")
_WARM_UP = 60.0  # seconds of video


def resident_mb(process: int) -> float:
    """The resident set of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def open_files(process: int) -> int:
    """How many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def size_of(partial: Path) -> float:
    """Bytes of a growing file, which say how long it is well enough for a curve."""
    return float(partial.stat().st_size) if partial.exists() else 0.0


def run(name: str, folder: Path, seconds: float, *, kill_at: int | None = None) -> None:
    """Make a video unless it is there; write a curve of memory; kill it at a size."""
    video = folder / f"{name}.mp4"
    if video.exists():
        return
    command = [sys.executable, "-m", "tethercache", "generate", PROMPT, "--seconds", str(seconds)]
    command += ["--seed", "5", "--resume", "-o", str(video)]
    partial = video.with_suffix(".partial.mp4")
    began = time.monotonic()
    with (
        (folder / f"{name}-{time.time():.0f}.csv").open("w", newline="") as file,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process,
    ):
        rows = csv.writer(file)
        rows.writerow(_HEAD)
        while process.poll() is None:
            try:
                size = size_of(partial)
                row = (resident_mb(process.pid), open_files(process.pid))
            except (FileNotFoundError, ProcessLookupError, IndexError):
                break
            rows.writerow((f"{time.monotonic() - began:.1f}", size, f"{row[0]:.2f}", row[1]))
            file.flush()
            if kill_at is not None and size >= kill_at:
                process.send_signal(signal.SIGKILL)
            time.sleep(1)
        _, said = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{name}: {said.decode()}")


def slope(curve: Path, seconds: float) -> tuple[float, float, float, int, int]:
    """Resident MB a minute of video after the warm-up; fewest and most open files.

    The slope is given twice: of a straight line by least squares, with its standard error, and as
    the median of the slopes of all pairs of minutes (Theil and Sen), each minute by its lowest
    reading. The second does not see memory that is taken for a while and given back.

    Bytes of the file stand for time: the video's rate is constant to a few per cent.
    """
    with curve.open() as file:
        rows = [row for row in csv.DictReader(file)]
    size = np.array([float(row["bytes"]) for row in rows])
    resident = np.array([float(row["resident_mb"]) for row in rows])
    files = np.array([int(row["open_files"]) for row in rows])
    rest = size[size > 0].min()  # of a run that goes on, what was there
    second = np.clip(size - rest, 0, None) / (size.max() - rest) * seconds
    warm = second > _WARM_UP
    minutes = second[warm] / 60
    (gradient, _), covariance = np.polyfit(minutes, resident[warm], 1, cov=True)
    numbers = np.unique(minutes.astype(int))
    floor = np.array([resident[warm][minutes.astype(int) == number].min() for number in numbers])
    first, later = np.triu_indices(len(numbers), 1)
    steady = np.median((floor[later] - floor[first]) / (numbers[later] - numbers[first]))
    return (
        float(gradient),
        float(covariance[0, 0] ** 0.5),
        float(steady),
        int(files[warm].min()),
        int(files[warm].max()),
    )


def seek(video: Path, seconds: float) -> list[float]:
    """How far from the wanted second the frames are that players find, at five places."""
    found = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        for share in (0.1, 0.35, 0.5, 0.75, 0.95):
            wanted = share * seconds
            container.seek(int(wanted / stream.time_base), stream=stream)
            frame = next(container.decode(stream))
            found.append(round(wanted - float(frame.pts * stream.time_base), 3))
    return found


def main() -> None:
    """Make both videos, compare them, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("hour"))
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    run("whole", given.folder, given.seconds)
    whole, cut = given.folder / "whole.mp4", given.folder / "cut.mp4"
    if not (cut.exists() or (given.folder / "killed").exists()):
        run("cut", given.folder, given.seconds, kill_at=whole.stat().st_size // 2)
        (given.folder / "killed").touch()
    run("cut", given.folder, given.seconds)
    for name in ("whole", "cut"):
        curves = sorted(given.folder.glob(f"{name}-*.csv"))
        for curve in curves:
            gradient, error, steady, fewest, most = slope(curve, given.seconds / len(curves))
            print(
                f"{curve.stem}: resident set {gradient:+.3f} MB (standard error {error:.3f}) a "
                f"minute of video, lowest reading of a minute {steady:+.3f}, "
                f"{fewest} to {most} open files"
            )
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, cut)]
    print(
        f"{given.seconds:g} s of video, {whole.stat().st_size} bytes, killed in the middle: "
        f"{'the same file' if hashes[0] == hashes[1] else 'ANOTHER FILE'}"
    )
    print(f"seeking: keyframes {seek(cut, given.seconds)} s before what was asked for")


if __name__ == "__main__":
    main()
