"""A video that broke off goes on, and is the same file as one that did not."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tethercache as tc
from tethercache.render import Recording, check, load, prepare
from tethercache.render import durable as module
from tethercache.render.batch import Resume
from tethercache.render.durable import OtherCircumstancesError, OtherRequestError, Saver
from tethercache.render.loading import Loaded
from tethercache.render.snapshots import Snapshots, snapshot_folder
from tethercache.video import Sidecar, VideoWriter, read_sidecar
from tethercache.video.target import partial_path

PROMPT = "a red ball rolling over grass"
CHUNKS = 14


class Broken(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def request_(model: Path) -> tc.VideoRequest:
    return tc.VideoRequest(
        PROMPT,
        latent_frames=3 * CHUNKS,
        model=str(model),
        seed=3,
        device="cpu",
        snapshot_every=0.0,
    )


def loaded_for(request: tc.VideoRequest) -> Loaded:
    return load(prepare(check(request)), [request.prompt])


@pytest.fixture(scope="module")
def loaded(request_: tc.VideoRequest) -> Loaded:
    return loaded_for(request_)


class Run:
    """Makes a video of a request in a folder, breaks off, goes on."""

    def __init__(self, loaded: Loaded, folder: Path) -> None:
        self.loaded = loaded
        self.path = folder / "video.mp4"
        self.said: list[str] = []

    def __call__(self, until: int | None = None, **options: Any) -> Sidecar:
        def told(recording: Recording) -> None:
            if recording.chunks == until:
                raise Broken

        request = options.pop("request", self.loaded.order.request)
        return self.loaded.make(request, self.path, told=told, said=self.said.append, **options)

    def broken(self, until: int, **options: Any) -> None:
        with pytest.raises(Broken):
            self(until, **options)

    @property
    def snapshots(self) -> list[int]:
        return [found.chunk for found in Snapshots(snapshot_folder(self.path)).whole()]

    @property
    def went_on_at(self) -> int:
        """The chunk that the latest run began with."""
        said = [text for text in self.said if "drift" not in text]  # the guard speaks, too
        found = re.match(r"going on at second [0-9.]+, chunk (\d+) of", said[-1])
        return int(found[1]) if found else 0


@pytest.fixture
def run(loaded: Loaded, tmp_path: Path) -> Run:
    return Run(loaded, tmp_path)


@pytest.fixture(scope="module")
def whole(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run that nothing has disturbed."""
    run = Run(loaded, tmp_path_factory.mktemp("whole"))
    run(resume=Resume.NO)
    assert [path.name for path in run.path.parent.glob("*")] != []
    assert not snapshot_folder(run.path).exists()
    return run.path.read_bytes()


def test_the_borders_of_segments_depend_on_nothing_but_the_request(
    request_: tc.VideoRequest, whole: bytes, tmp_path: Path
) -> None:
    none = loaded_for(dataclasses.replace(request_, keep_snapshots=0))
    seldom = loaded_for(dataclasses.replace(request_, snapshot_every=1e6))
    for number, loaded in enumerate((none, seldom)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(loaded, folder)
        run()
        assert run.path.read_bytes() == whole


@pytest.mark.parametrize("until", [1, 3, 7, 13])
def test_a_run_that_broke_off_goes_on(run: Run, whole: bytes, until: int) -> None:
    run.broken(until)
    assert partial_path(run.path).exists()
    borders = [chunk for chunk in (12, 9, 6, 3) if chunk <= until][:2]
    assert run.snapshots == borders
    record = run(resume=Resume.YES)
    assert run.went_on_at == max(borders, default=0)
    assert run.path.read_bytes() == whole
    assert record.is_complete
    assert {path.name for path in run.path.parent.iterdir()} == {"video.mp4", "video.json"}


def test_where_it_goes_on_is_said(run: Run) -> None:
    run.broken(7)
    run(resume=Resume.YES)
    assert run.went_on_at == 6
    assert run.said[-1].startswith("going on at second 4.31, chunk 6 of 14")


def test_with_nothing_to_resume_it_begins_anew_and_says_so(run: Run, whole: bytes) -> None:
    run(resume=Resume.YES)
    assert run.said == ["nothing to resume, beginning anew: there is no snapshot yet"]
    assert run.path.read_bytes() == whole


def test_a_resume_is_resumed(run: Run, whole: bytes) -> None:
    run.broken(5)
    begun = []
    for until in (8, 9, 13):
        run.broken(until, resume=Resume.YES)
        begun.append(run.went_on_at)
    run(resume=Resume.YES)
    assert [*begun, run.went_on_at] == [3, 6, 9, 12]
    assert run.path.read_bytes() == whole


def test_the_record_is_that_of_an_undisturbed_run(run: Run, tmp_path: Path) -> None:
    run.broken(7)
    record = run(resume=Resume.YES)
    other = tmp_path / "other"
    other.mkdir()
    undisturbed = Run(run.loaded, other)()
    out = {"wall_seconds": 0.0, "frames_per_second": 0.0, "model": "", "request": {}}
    assert dataclasses.replace(record, **out) == dataclasses.replace(undisturbed, **out)
    assert record.wall_seconds > 0


VARIANTS = {
    "sink": {"policy": "sink"},
    "fifo": {"policy": "fifo"},
    "commit-read": {"policy": "tethercache + commit-read"},
    "no overlap": {"overlap": "off"},
    "overlap": {"overlap": "on"},
    "preview": {"decoder": "preview"},
    "drift watch": {"watch_drift": True},
    "seconds": {"latent_frames": None, "seconds": 10.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_kind_of_video_goes_on(
    request_: tc.VideoRequest, tmp_path: Path, changes: dict[str, Any]
) -> None:
    loaded = loaded_for(dataclasses.replace(request_, **changes))
    files = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        run = Run(loaded, tmp_path / name)
        if name == "cut":
            run.broken(10)
            run.loaded = loaded_for(loaded.order.request)  # as another process would
        record = run(resume=Resume.YES)
        files.append((run.path.read_bytes(), record.frames_hash, record.settings.get("drift")))
    assert run.went_on_at == 9
    assert files[0] == files[1]


def test_a_clip_that_is_continued_goes_on(
    request_: tc.VideoRequest, whole: bytes, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (21, 16, 16, 3), dtype=np.uint8)
    with VideoWriter(clip, fps=16, width=16, height=16) as writer:
        writer.write(frames)
    loaded = loaded_for(dataclasses.replace(request_, prefix=str(clip)))
    files = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        run = Run(loaded, tmp_path / name)
        if name == "cut":
            run.broken(7)
        run(resume=Resume.YES)
        files.append(run.path.read_bytes())
    assert run.went_on_at == 6
    assert files[0] == files[1] != whole


def damage_manifest(run: Run) -> None:
    path = snapshot_folder(run.path) / f"{run.snapshots[0]:08d}.json"
    path.write_text(path.read_text()[:-20])


def damage_data(run: Run) -> None:
    path = snapshot_folder(run.path) / f"{run.snapshots[0]:08d}.safetensors"
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))


def cut_data(run: Run) -> None:
    path = snapshot_folder(run.path) / f"{run.snapshots[0]:08d}.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def shorten_video(run: Run) -> None:
    """As after a power cut: the newest frames never reached the disk."""
    found = Snapshots(snapshot_folder(run.path)).whole()[0].load()
    with partial_path(run.path).open("r+b") as file:
        file.truncate(found["recording"]["position"]["size"] - 1)


@pytest.mark.parametrize("damage", [damage_manifest, damage_data, cut_data, shorten_video])
def test_from_a_damaged_snapshot_it_falls_back_to_the_one_before(
    run: Run,
    whole: bytes,
    damage: Callable[[Run], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run.broken(11)
    assert run.snapshots == [9, 6]
    damage(run)
    run(resume=Resume.YES)
    assert run.went_on_at == 6
    assert "trying the one before" in caplog.text
    assert run.path.read_bytes() == whole


@pytest.mark.parametrize("lost", ["video", "changed video", "snapshots", "record", "both"])
def test_whatever_is_lost_the_video_is_made(run: Run, whole: bytes, lost: str) -> None:
    run.broken(11)
    partial = partial_path(run.path)
    if lost == "video":
        partial.unlink()
    if lost == "changed video":
        content = bytearray(partial.read_bytes())
        content[1000] ^= 255
        partial.write_bytes(content)
    if lost in ("snapshots", "both"):
        Snapshots(snapshot_folder(run.path)).remove()
    if lost == "record":
        partial.with_suffix(".json").unlink()
    run(resume=Resume.YES)
    assert run.went_on_at == (9 if lost == "record" else 0)
    assert run.path.read_bytes() == whole


def test_frames_behind_the_snapshot_are_cut_off_first(run: Run, whole: bytes) -> None:
    run.broken(11)
    with partial_path(run.path).open("ab") as file:
        file.write(b"\0\0\1\0moof" + bytes(100))  # a fragment that was being written
    run(resume=Resume.YES)
    assert run.went_on_at == 9
    assert run.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "named", "keep"),
    [
        ({"prompt": "a blue ball"}, "prompt", "both"),
        ({"seed": 4}, "seed", "record"),
        ({"sample": 1}, "sample", "snapshots"),
    ],
)
def test_an_unfinished_video_of_another_request_is_left_alone(
    request_: tc.VideoRequest, tmp_path: Path, changes: dict[str, Any], named: str, keep: str
) -> None:
    loaded = load(prepare(check(request_)), [PROMPT, "a blue ball"])
    run = Run(loaded, tmp_path)
    run.broken(8)
    if keep == "record":
        Snapshots(snapshot_folder(run.path)).remove()
    if keep == "snapshots":
        partial_path(run.path).with_suffix(".json").unlink()
    before = partial_path(run.path).read_bytes()
    other = dataclasses.replace(request_, **changes)
    with pytest.raises(OtherRequestError, match=f"{named}.*--overwrite replaces it"):
        run(request=other, resume=Resume.YES)
    assert partial_path(run.path).read_bytes() == before
    run(request=other, overwrite=True)
    assert read_sidecar(run.path).seed == other.seed


def test_a_longer_video_goes_on_with_a_shorter_one(
    request_: tc.VideoRequest, run: Run, tmp_path: Path
) -> None:
    run.broken(8)
    run.loaded = loaded_for(dataclasses.replace(request_, latent_frames=60))
    run(resume=Resume.YES)
    assert run.went_on_at == 6
    (tmp_path / "long").mkdir()
    long = Run(run.loaded, tmp_path / "long")
    long()
    assert run.path.read_bytes() == long.path.read_bytes()


def test_other_circumstances_have_to_be_accepted(
    run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run.broken(8)
    before = partial_path(run.path).read_bytes()
    record = Loaded.record

    def elsewhere(self: Loaded, *arguments: Any) -> Sidecar:
        made = record(self, *arguments)
        versions = {**made.versions, "torch": "9.9"}
        settings = {**made.settings, "threads": 7}
        return dataclasses.replace(made, versions=versions, settings=settings, device="H900")

    with monkeypatch.context() as patch:
        patch.setattr(Loaded, "record", elsewhere)
        with pytest.raises(
            OtherCircumstancesError, match=r"device cpu, here H900.*torch .*9\.9.*threads 1, here 7"
        ):
            run(resume=Resume.YES)
        assert partial_path(run.path).read_bytes() == before
        run(resume=Resume.ANYWAY)
    assert "last bits" in caplog.text
    assert run.went_on_at == 6
    assert run.path.read_bytes() == whole  # here nothing has really changed


def test_threads_and_number_format_are_taken_from_the_snapshot(
    request_: tc.VideoRequest, run: Run
) -> None:
    run.broken(8)
    begun = module.latest(run.path)
    assert begun is not None
    settings = {**begun.settings, "threads": 1}
    begun = dataclasses.replace(begun, dtype="bfloat16", settings=settings)
    again = load(run.loaded.order, [PROMPT], like=begun)
    assert again.placement.dtype == "bfloat16"


def test_two_runs_never_write_one_video(run: Run, whole: bytes) -> None:
    run.broken(5)
    tried = []

    def told(recording: Recording) -> None:
        if recording.chunks == 8:
            with pytest.raises(FileExistsError, match="another run is writing this video"):
                Run(run.loaded, run.path.parent)(resume=Resume.YES)
            tried.append(recording.chunks)

    run.loaded.make(run.loaded.order.request, run.path, resume=Resume.YES, told=told)
    assert tried == [8]
    assert run.path.read_bytes() == whole


def test_a_snapshot_that_cannot_be_written_costs_nothing_but_itself(
    run: Run, whole: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Snapshots, "write", full)
    run()
    assert caplog.text.count("no snapshot could be written") == 1
    assert run.path.read_bytes() == whole


def test_snapshots_cost_a_share_of_the_time_at_most(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module, "time", FakeTime(clock))
    record = loaded.record(loaded.order.request, tmp_path)
    segment = module.Segment(3, 36)
    recording = Recording(tmp_path / "video.mp4", record, segment=segment)
    snapshots = Snapshots(tmp_path / "video.resume")
    saver, taken = Saver(snapshots, recording), []

    def write(chunk: int, *_: object) -> None:
        taken.append(clock[0])
        clock[0] += 0.5  # what a snapshot costs

    monkeypatch.setattr(snapshots, "write", write)
    with saver:
        for number in range(1, 2000):
            clock[0] += 0.25
            wanted = saver.wants(number)
            if wanted:
                recording.chunks = number
                saver.take({"chunks_made": number})
                while not saver.idle:
                    time.sleep(0.001)
    recording.abandon()
    gaps = np.diff(taken)
    assert taken[0] < module.LEAST_SECONDS + 1
    assert min(gaps) >= 0.5 / module.SHARE
    assert len(gaps) > 10


class FakeTime:
    def __init__(self, clock: list[float]) -> None:
        self.monotonic = self.thread_time = lambda: clock[0]


def test_manifests_hold_no_path_of_this_machine(run: Run, model: Path) -> None:
    run.broken(5)
    for path in snapshot_folder(run.path).glob("*.json"):
        assert str(model) not in path.read_text()
        assert json.loads(path.read_text())["body"]["about"]["record"]["prompt"] == PROMPT
