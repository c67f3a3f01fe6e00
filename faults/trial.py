"""A trial: one video in a folder of its own, and what must hold of it whatever has happened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import av

from faults.command import Ended, Run
from faults.strike import Strike
from tethercache.render.batch import slug
from tethercache.render.snapshots import Snapshots, snapshot_folder
from tethercache.video.mp4 import count_frames
from tethercache.video.target import partial_path

PROMPTS = ("a red ball rolling over grass", "a blue ball", "a ball over sand")
CHANGES = ("--then", "3: a blue ball", "--then", "5.5 recache: a ball over sand")
CHANGES += ("--then", "8 cut: a red ball")
_COMES_OUT = ("wall_seconds", "frames_per_second", "command", "request")
_OURS = ("snapshot_every", "keep_snapshots", "snapshot_budget", "overlap", "threads")


class Finding(Exception):
    """Something is not as it must be."""


class NotHereError(Exception):
    """This machine cannot do what the trial needs."""


@dataclass(frozen=True)
class Video:
    """What a trial asks for.

    Attributes:
        frames: latent frames.
        asked: flags that decide about the frames.
        free: flags that must not.
        batch: whether it is several videos, of a file of prompts.
    """

    frames: int
    asked: tuple[str, ...]
    free: tuple[str, ...] = ()
    batch: bool = False

    @property
    def names(self) -> list[str]:
        """Of the files, from the trial's folder."""
        if not self.batch:
            return ["v.mp4"]
        return [f"batch/{i:03d}-{slug(text)}-0.mp4" for i, text in enumerate(PROMPTS)]

    def arguments(self, model: Path, prompts: Path) -> list[str]:
        """Of the command line."""
        texts = ["--prompts", str(prompts)] if self.batch else [PROMPTS[0]]
        where = "batch" if self.batch else "v.mp4"
        plain = ["--model", str(model), "--device", "cpu", "--latent-frames", str(self.frames)]
        return ["generate", *texts, *plain, *self.asked, *self.free, "-o", where]


@dataclass(frozen=True)
class Whole:
    """What a run that nothing disturbs makes of a video.

    Attributes:
        files: the videos by name.
        records: theirs, without what is not the same every time.
        operations: on files, in order.
        seconds: how long it takes.
    """

    files: dict[str, bytes]
    records: dict[str, dict[str, Any]]
    operations: tuple[str, ...]
    seconds: float


@dataclass
class Bench:
    """What all trials share: a model, and runs that nothing disturbs.

    Attributes:
        folder: room for it.
        model: a folder.
    """

    folder: Path
    model: Path
    _wholes: dict[Video, Whole] = field(default_factory=dict)

    @property
    def prompts(self) -> Path:
        """The file of a batch."""
        return self.folder / "prompts.txt"

    def whole(self, video: Video) -> Whole:
        """Make a video without any fault; once."""
        if video not in self._wholes:
            trial = Trial(self, Random(0), video, self.folder / f"whole-{len(self._wholes)}")
            ended = trial.start().end()
            if ended.status:
                raise Finding(f"fails without any fault: {ended.said[-500:]}")
            files = {name: (trial.folder / name).read_bytes() for name in video.names}
            records = {name: record_of(trial.folder / name) for name in video.names}
            self._wholes[video] = Whole(files, records, ended.operations, ended.seconds)
            self._agree(video)
        return self._wholes[video]

    def _agree(self, video: Video) -> None:
        """Flags that must not decide about the frames do not."""
        made = self._wholes[video]
        for other, found in self._wholes.items():
            same = (other.frames, other.asked, other.batch) == (
                video.frames,
                video.asked,
                video.batch,
            )
            if same and found.files != made.files:
                raise Finding(f"{video.free} and {other.free} make different files")


class Trial:
    """One video in the making, which something happens to.

    Attributes:
        rng: decides about everything that chance decides.
        video: what is asked for.
        folder: the current one of the command; only its files are here.
        kills: how many runs were killed.
        story: what has happened.
    """

    def __init__(self, bench: Bench, rng: Random, video: Video, place: Path) -> None:
        self.bench = bench
        self.rng = rng
        self.video = video
        self.folder = place / "out"
        self.folder.mkdir(parents=True)
        self.notes = place
        self.kills = 0
        self.story: list[str] = []

    @property
    def whole(self) -> Whole:
        """What has to come out."""
        return self.bench.whole(self.video)

    def start(self, *flags: str, **options: Any) -> Run:
        """Start the command, with further flags."""
        arguments = self.video.arguments(self.bench.model, self.bench.prompts)
        return Run([*arguments, *flags], self.folder, self.notes, **options)

    def run(self, *flags: str, after: float | None = None, **options: Any) -> Ended:
        """Run the command to its end, or kill it after so many seconds."""
        return self.ended(self.start(*flags, **options), *flags, after=after)

    def ended(self, run: Run, *flags: str, after: float | None = None) -> Ended:
        """Wait for the end of a run; says what must hold at every end."""
        ended = run.end(after)
        self.kills += ended.killed
        where = f"after {ended.seconds:.2f} s"
        if ended.operations:
            where += f", at operation {len(ended.operations)}, {ended.operations[-1]!r}"
        self.tell(f"{' '.join(flags) or 'run'}: {ended.status} {where if ended.killed else ''}")
        if "Traceback" in ended.said:
            raise Finding(f"a traceback: {ended.said[-1500:]}")
        if ended.status > 0 and len(ended.errors) != 1 + self.video.batch * (len(ended.errors) > 1):
            raise Finding(f"status {ended.status} and not one line: {ended.said[-800:]}")
        if ended.status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS):
            raise Finding(f"it crashed: {ended.said[-800:]}")
        self.check_names()
        return ended

    def tell(self, text: str) -> None:
        """Add to the story."""
        self.story.append(text.strip())

    def check_names(self) -> None:
        """Under a final name stands nothing that is not whole."""
        for name in self.video.names:
            path = self.folder / name
            if path.exists():
                if path.read_bytes() != self.whole.files[name]:
                    raise Finding(f"{name} is not the whole video")
                if record_of(path) != self.whole.records[name]:
                    raise Finding(f"the record of {name} is not that of the whole video")
            elif partial_path(path).exists():
                check_playable(partial_path(path))

    def resume(self, *flags: str, goes_on_at: int | None = None, **options: Any) -> Ended:
        """Go on to the end, which has to be the whole video, from the newest snapshot.

        Args:
            *flags: further ones.
            goes_on_at: the chunk that it has to begin with; None: that of the newest snapshot.
            **options: of `Run`.
        """
        expected = self.newest() if goes_on_at is None else goes_on_at
        ended = self.run("--resume", *flags, **options)
        if ended.status:
            raise Finding(f"--resume ends with {ended.status}: {ended.said[-800:]}")
        if ended.went_on_at != expected:
            raise Finding(f"it went on at {ended.went_on_at}, not {expected}: {ended.said[-800:]}")
        self.tell(f"went on at chunk {ended.went_on_at}")
        self.check_complete()
        return ended

    def newest(self) -> int:
        """The chunk of the newest snapshot that a resume would begin with; 0: none."""
        for name in self.video.names:
            path = self.folder / name
            if path.exists():
                continue
            found = Snapshots(snapshot_folder(path)).whole() if partial_path(path).exists() else []
            return 0 if self._all_made(path) else max((one.chunk for one in found), default=0)
        return 0

    def _all_made(self, path: Path) -> bool:
        """Whether a video lacks its name only."""
        from tethercache.render.recording import unnamed

        return unnamed(path) is not None

    def check_complete(self) -> None:
        """Everything is there and whole, and nothing else."""
        self.check_names()
        left = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}
        expected = {
            str(Path(name).with_suffix(end))
            for name in self.video.names
            for end in (".mp4", ".json")
        }
        if self.video.batch:
            expected.add("batch")
        if missing := expected - left:
            raise Finding(f"not there: {', '.join(sorted(missing))}")
        if "--snapshot-budget" in self.video.free:
            left = {name for name in left if not self._is_kept(Path(name))}
        if more := left - expected:
            raise Finding(f"left over: {', '.join(sorted(more))}")

    def _is_kept(self, name: Path) -> bool:
        """Whether a file is a snapshot that stays, or their folder."""
        return name.suffix == ".resume" or (
            name.parent.suffix == ".resume"
            and name.stem.isdecimal()
            and all(
                (self.folder / name).with_suffix(end).exists() for end in (".json", ".safetensors")
            )
        )


def record_of(path: Path) -> dict[str, Any]:
    """The record of a video, without what is not the same every time."""
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    request = {name: value for name, value in found["request"].items() if name not in _OURS}
    return {name: value for name, value in found.items() if name not in _COMES_OUT} | {
        "request": request
    }


def check_playable(path: Path) -> None:
    """A partial file can be read up to its last chunk, once its header is written."""
    with path.open("rb") as file:
        if file.read(12)[4:8] != b"ftyp":
            return
        file.seek(0)
        try:
            count_frames(file)
        except av.FFmpegError as error:
            if os.path.getsize(path) > 2000:
                raise Finding(f"{path.name} cannot be played: {error}") from error


def strike_at(
    trial: Trial, act: str, wanted: Callable[[str], bool] = lambda name: True, **options: Any
) -> Strike:
    """A strike at one of the operations of a whole run that are wanted."""
    places = [i for i, name in enumerate(trial.whole.operations, 1) if wanted(name)]
    return Strike(act, trial.rng.choice(places), part=trial.rng.random(), **options)


def videos(*, batch: bool = False) -> list[Video]:
    """What trials ask for: three policies, and snapshots at every border, often and by default."""
    made = []
    for policy in ("tethercache", "sink", "fifo"):
        asked = ("--policy", policy, "--seed", "3")
        every = ("--snapshot-every", "0")
        if batch:
            made.append(Video(15, asked, every, batch=True))
            continue
        made += [
            Video(42, asked, every),
            Video(45, asked, (*every, "--overlap", "off", "--keep-snapshots", "1")),
            Video(45, asked, ("--snapshot-every", "0.05", "--overlap", "on")),
            Video(42, asked, (*every, "--snapshot-budget", "0.0005")),
            Video(150, asked),
            Video(45, (*asked, *CHANGES), every),
        ]
    return made
