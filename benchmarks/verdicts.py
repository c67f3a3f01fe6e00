"""Is the verdict of `tethercache eval` right? Clips with known faults, made from real ones.

Every source is a clean video. A grammar of faults (which drift) and of edits and legitimate changes
(which do not) makes labelled clips of it, each encoded as an ordinary H.264 file. Sources are split
into two halves: thresholds were chosen on `choose`, and `test` only reports. Prints a table of the
clips judged wrongly and a confusion matrix of each half, then one JSON line.

    python benchmarks/verdicts.py make SOURCE... --folder CLIPS --take 4    # about 6 s a clip
    python benchmarks/verdicts.py judge --folder CLIPS --take 2 > benchmarks/results/verdicts.txt

`judge --labels FILE` takes the labels of other clips: lines of `path drifting` or `path other`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from tethercache.evaluation.inputs import Input
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import VideoResult
from tethercache.evaluation.stored import measure_all
from tethercache.video import read_frames

Image = npt.NDArray[np.uint8]
Frames = Iterator[Image]
FPS, SECONDS = 16, 30
WIDTH, HEIGHT = 416, 240  # where the metrics work; four times as fast as full size


class Source:
    """The frames of one video from a second on, and another scene to cut to."""

    def __init__(self, path: Path, skip: float, other: Path) -> None:
        self.path, self.skip, self._other = path, skip, other

    @property
    def name(self) -> str:
        """For file names."""
        return f"{self.path.parent.name}-{self.path.stem}-{self.skip:g}".replace(" ", "_")

    def frames(self, seconds: float = SECONDS) -> Frames:
        """The clip, in working size."""
        begin = round(self.skip * FPS)
        return map(fit, islice(read_frames(self.path), begin, begin + round(seconds * FPS)))

    def other(self) -> Frames:
        """Another scene."""
        return map(fit, read_frames(self._other))


def fit(frame: Image) -> Image:
    """A frame in working size."""
    if frame.shape == (HEIGHT, WIDTH, 3):
        return frame
    return as_bytes(cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def as_bytes(picture: npt.NDArray[np.generic] | cv2.Mat) -> Image:
    """Rounded, 0 to 255."""
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def ramp(second: float, begin: float = 4.0, end: float = SECONDS) -> float:
    """0 until `begin`, then linearly to 1 at `end`."""
    return float(np.clip((second - begin) / (end - begin), 0.0, 1.0))


# --- one picture to another -----------------------------------------------------------------------


def saturate(frame: Image, gain: float) -> Image:
    """Colours further from grey."""
    ycc = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    ycc[..., 1:] = 128 + (ycc[..., 1:] - 128) * gain
    return as_bytes(cv2.cvtColor(as_bytes(ycc), cv2.COLOR_YCrCb2RGB))


def tone(frame: Image, gain: float = 1.0, offset: float = 0.0, gamma: float = 1.0) -> Image:
    """Another tone curve."""
    levels = np.arange(256, dtype=np.float32) / 255
    table = as_bytes(255 * (levels**gamma * gain) + offset)
    return as_bytes(cv2.LUT(frame, table))


def tint(frame: Image, amount: float) -> Image:
    """Towards cyan."""
    return as_bytes(frame * (1 + amount * np.array([-0.35, 0.25, 0.25], np.float32)))


def sharpen(frame: Image, amount: float) -> Image:
    """Unsharp mask."""
    soft = cv2.GaussianBlur(frame, (0, 0), 1.2)
    return as_bytes(cv2.addWeighted(frame, 1 + amount, soft, -amount, 0))


def blur(frame: Image, sigma: float) -> Image:
    """Gaussian blur."""
    return as_bytes(cv2.GaussianBlur(frame, (0, 0), sigma))


def blocks(frame: Image, size: int) -> Image:
    """Squares of one colour."""
    small = cv2.resize(frame, (WIDTH // size, HEIGHT // size), interpolation=cv2.INTER_AREA)
    return as_bytes(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST))


def grain(frame: Image, sigma: float, seed: int) -> Image:
    """Grey noise."""
    noise = np.random.default_rng(seed).normal(0, sigma, (HEIGHT, WIDTH, 1))
    return as_bytes(frame + noise)


def zoom(frame: Image, scale: float) -> Image:
    """The middle of the frame, larger."""
    height, width = round(HEIGHT / scale), round(WIDTH / scale)
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    part = frame[top : top + height, left : left + width]
    return as_bytes(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


def each(change: Callable[[Image, float, int], Image]) -> Callable[[Source], Frames]:
    """A clip from a change of single frames, which knows the second and the number."""

    def clip(source: Source) -> Frames:
        for index, frame in enumerate(source.frames()):
            yield change(frame, index / FPS, index)

    return clip


def burn(strength: float) -> Callable[[Source], Frames]:
    """What self-conditioned models do: too sharp, too vivid, darker, and ever slower."""

    def clip(source: Source) -> Frames:
        kept = list(source.frames())
        position = 0.0
        for index in range(len(kept)):
            grows = strength * ramp(index / FPS)
            frame = saturate(kept[min(int(position), len(kept) - 1)], 1 + 0.8 * grows)
            yield sharpen(tint(tone(frame, gamma=1 + 0.5 * grows), 0.5 * grows), 0.9 * grows)
            position += 1 - 0.7 * min(1.0, grows)

    return clip


def loop(seconds: float) -> Callable[[Source], Frames]:
    """The first seconds again and again."""

    def clip(source: Source) -> Frames:
        kept = list(source.frames(seconds))
        for index in range(SECONDS * FPS):
            yield kept[index % len(kept)]

    return clip


def freeze(second: float) -> Callable[[Source], Frames]:
    """One frame from a second on."""

    def clip(source: Source) -> Frames:
        last = None
        for index, frame in enumerate(source.frames()):
            if last is None or index <= second * FPS:
                last = frame
            yield last

    return clip


def half(second: float, side: str) -> Callable[[Source], Frames]:
    """One half shows another scene from a second on."""

    def clip(source: Source) -> Frames:
        others = source.other()
        for index, frame in enumerate(source.frames()):
            if index >= second * FPS:
                picture = next(others, None)
                if picture is not None:
                    last = picture
                frame = frame.copy()
                if side == "left":
                    frame[:, : WIDTH // 2] = last[:, : WIDTH // 2]
                else:
                    frame[HEIGHT // 2 :] = last[HEIGHT // 2 :]
            yield frame

    return clip


DRIFTS: dict[str, Callable[[Source], Frames]] = {
    "vivid_middle": each(lambda f, t, i: saturate(f, 2.4) if 8 <= t < 22 else f),
    "vivid_late": each(lambda f, t, i: saturate(f, 1 + 1.6 * ramp(t))),
    "grey_late": each(lambda f, t, i: tone(saturate(f, 1 - 0.9 * ramp(t)), 1 - 0.15 * ramp(t))),
    "burns": burn(1.0),
    "burns_strongly": burn(1.6),
    "darkens_tinted": each(lambda f, t, i: tint(tone(f, gamma=1 + 0.8 * ramp(t)), 0.6 * ramp(t))),
    "flickers": each(lambda f, t, i: tone(f, offset=10 * (-1) ** i)),
    "flickers_late": each(lambda f, t, i: tone(f, gain=1 + 0.15 * (i % 2)) if t > 10 else f),
    "loops": loop(5),
    "loops_3s": loop(3),
    "freezes": freeze(8),
    "freezes_late": freeze(18),
    "blurs": each(lambda f, t, i: blur(f, 2.5) if t >= 12 else f),
    "blurs_slowly": each(lambda f, t, i: blur(f, 0.01 + 3 * ramp(t)) if t > 4 else f),
    "blocks": each(lambda f, t, i: blocks(f, 8) if t >= 12 else f),
    "blocks_small": each(lambda f, t, i: blocks(f, 4) if t >= 12 else f),
    "grain": each(lambda f, t, i: grain(f, 20, i) if t >= 12 else f),
    "grain_slowly": each(lambda f, t, i: grain(f, 22 * ramp(t), i)),
    "half": half(12, "left"),
    "half_below": half(16, "below"),
}


# --- edits and legitimate changes -----------------------------------------------------------------


def cut(*seconds: float) -> Callable[[Source], Frames]:
    """To the other scene and back, at each of the seconds."""

    def clip(source: Source) -> Frames:
        for index, (one, two) in enumerate(zip(source.frames(), paced(source), strict=False)):
            yield (one, two)[sum(index >= s * FPS for s in seconds) % 2]

    return clip


def paced(source: Source) -> Frames:
    """The other scene for ever: forwards, then backwards, so that no cut is hidden in it."""
    kept = list(islice(source.other(), SECONDS * FPS))
    while True:
        yield from kept
        yield from reversed(kept)


def cross(second: float, length: float) -> Callable[[Source], Frames]:
    """A crossfade to the other scene."""

    def clip(source: Source) -> Frames:
        for index, (one, two) in enumerate(zip(source.frames(), paced(source), strict=False)):
            share = ramp(index / FPS, second, second + length)
            yield as_bytes(cv2.addWeighted(one, 1 - share, two, share, 0))

    return clip


def oscillate(frame: Image, second: float) -> Image:
    """Sun and clouds."""
    return tone(frame, gain=1 + 0.06 * float(np.sin(second * 0.9)))


def caption(frame: Image, second: float) -> Image:
    """A line of text for 10 s."""
    if not 10 <= second < 20:
        return frame
    frame = frame.copy()
    cv2.putText(frame, "a line of text", (100, 220), 0, 0.8, (255, 255, 255), 2)
    return frame


def backwards(source: Source) -> Frames:
    """The clip from its end."""
    return reversed(list(source.frames()))


def faster(source: Source) -> Frames:
    """Half speed, then ever faster."""
    kept, position = list(source.frames()), 0.0
    for index in range(len(kept)):
        yield kept[min(int(position), len(kept) - 1)]
        position += 0.5 + ramp(index / FPS)


OTHERS: dict[str, Callable[[Source], Frames]] = {
    "as_it_is": each(lambda f, t, i: f),
    "cuts": cut(11.0),
    "cuts_often": cut(5.0, 12.0, 19.0, 25.0),
    "crosses": cross(14.0, 1.5),
    "crosses_early": cross(5.0, 1.0),
    "fades_out": each(lambda f, t, i: tone(f, gain=1 - ramp(t, 27.5, 29.5))),
    "fades_out_white": each(lambda f, t, i: tone(f, 1 - ramp(t, 28, 30), 255 * ramp(t, 28, 30))),
    "fades_in": each(lambda f, t, i: tone(f, gain=ramp(t, 0.2, 2))),
    "dips": each(lambda f, t, i: tone(f, gain=min(1.0, abs(t - 15)))),
    "flashes": each(lambda f, t, i: tone(f, 0.4, 153) if i in (200, 201) else f),
    "flashes_often": each(lambda f, t, i: tone(f, 0.6, 90) if i % 77 < 2 else f),
    "graded": each(lambda f, t, i: saturate(tone(f, gamma=0.8), 1.4)),
    "soft": each(lambda f, t, i: blur(f, 1.2)),
    "grainy": each(lambda f, t, i: grain(f, 7, i)),
    "zooms": each(lambda f, t, i: zoom(f, 1 + 0.6 * ramp(t, 0))),
    "breathes": each(lambda f, t, i: oscillate(f, t)),
    "captioned": each(lambda f, t, i: caption(f, t)),
    "warms": each(lambda f, t, i: saturate(f, 1 + 0.08 * ramp(t))),
    "dims": each(lambda f, t, i: tone(f, 1 - 0.07 * ramp(t))),
    "backwards": backwards,
    "faster": faster,
}


# --- files ----------------------------------------------------------------------------------------


def encode(path: Path, frames: Frames, crf: int) -> None:
    """An ordinary H.264 file."""
    partial = path.with_suffix(".part")
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)


def sources(paths: list[Path]) -> list[Source]:
    """Each path is `FILE@SECOND`; the next file of its half is the other scene."""
    found = []
    for index, path in enumerate(paths):
        name, _, skip = str(path).partition("@")
        other = str(paths[(index + 2) % len(paths)]).partition("@")[0]
        found.append(Source(Path(name), float(skip or 0), Path(other)))
    return found


def make(paths: list[Path], folder: Path, take: int) -> None:
    """Every source in every `take`-th way, at another place of the grammar each."""
    grammar = {f"drifting+{k}": v for k, v in DRIFTS.items()}
    grammar |= {f"other+{k}": v for k, v in OTHERS.items()}
    cv2.setNumThreads(1)
    for number, source in enumerate(sources(paths)):
        half_ = ("choose", "test")[number % 2]
        for index, (name, clip) in enumerate(grammar.items()):
            path = folder / f"{half_}+{name}+{source.name}.mp4"
            if (index + number) % take == 0 and not path.exists():
                encode(path, clip(source), crf=(20, 26)[index % 2])
                print(path.name, flush=True)


def label(path: Path) -> tuple[str, str, str]:
    """Half, right word and kind of a clip, which its name says."""
    half_, right, kind, _ = path.name.split("+", 3)
    return half_, right, kind


def judge(folder: Path, labels: Path | None, take: int, jobs: int) -> None:
    """Evaluate all clips, print what is wrong and the confusion matrices."""
    known: dict[Path, tuple[str, str, str]] = {}
    if labels:
        for line in labels.read_text(encoding="utf-8").splitlines():
            name, _, right = line.rpartition(" ")
            path = labels.parent / name
            known[path] = ("given", right, path.stem)
    else:
        known = {path: label(path) for path in sorted(folder.glob("*+*+*+*.mp4"))[::take]}
    store = folder / "finished"
    store.mkdir(exist_ok=True)
    counts: Counter[tuple[str, str, str]] = Counter()
    wrong = []
    inputs = [Input(path, str(path), str(path)) for path in known]
    for outcome in measure_all(inputs, Options(), jobs=jobs, store=store):
        result = outcome.result
        path = Path(result.name)
        half_, right, kind = known[path]
        word = result.verdict if isinstance(result, VideoResult) else "skipped"
        counts[half_, right, word] += 1
        if (word == "drifting") != (right == "drifting") or word == "skipped":
            why = result.reasons if isinstance(result, VideoResult) else [result.reason]
            wrong.append(f"{half_:7} {right:9} {word:9} {kind:16} {path.stem[:60]}: {why}")
    print("\n".join(["judged wrongly:", *sorted(wrong), ""]))
    words = ("stable", "watch", "drifting", "skipped")
    print(f"{'half':8} {'right':9} {' '.join(f'{w:>9}' for w in words)}")
    for half_, right in sorted({(h, r) for h, r, _ in counts}):
        row = " ".join(f"{counts[half_, right, word]:9}" for word in words)
        print(f"{half_:8} {right:9} {row}")
    matrix = {f"{h}/{r}/{w}": n for (h, r, w), n in sorted(counts.items())}
    print(json.dumps({"clips": sum(counts.values()), "wrong": len(wrong), "counts": matrix}))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=("make", "judge"))
    parser.add_argument("sources", nargs="*", type=Path, help="FILE or FILE@SECOND, clean videos")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--take", type=int, default=1, help="every n-th way for each source, or every n-th clip"
    )
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.task == "make":
        make(args.sources, args.folder, args.take)
    else:
        judge(args.folder, args.labels, args.take, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
