"""Branches and going back: another future, the same past."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tethercache as tc
from tests.render.test_durable import Run, loaded_for
from tethercache.render import check, load, prepare
from tethercache.render.batch import Resume
from tethercache.render.branch import BranchPoint, Take, begin_branch, next_take, plan_branch
from tethercache.render.snapshots import Snapshots, snapshot_folder
from tethercache.render.takes import find_takes
from tethercache.script import Change
from tethercache.video import Sidecar, probe, read_frames, read_sidecar
from tethercache.video.target import partial_path

PROMPT = "a red ball rolling over grass"
OTHER = "a blue ball over sand"
CHUNKS = 12
KEPT = {"snapshot_every": 0.0, "snapshot_budget": 1.0}


@pytest.fixture(scope="module")
def request_(model: Path) -> tc.VideoRequest:
    return tc.VideoRequest(
        PROMPT, latent_frames=3 * CHUNKS, model=str(model), seed=3, device="cpu", **KEPT
    )


@pytest.fixture(scope="module")
def parent(request_: tc.VideoRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished video with all its snapshots."""
    run = Run(loaded_for(request_), tmp_path_factory.mktemp("parent"))
    run()
    assert run.snapshots == [9, 6, 3]
    return run.path


@pytest.fixture(scope="module")
def bare(request_: tc.VideoRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same video without any snapshot."""
    run = Run(
        loaded_for(dataclasses.replace(request_, snapshot_budget=0.0)),
        tmp_path_factory.mktemp("bare"),
    )
    run()
    assert not snapshot_folder(run.path).exists()
    return run.path


def follow(point: BranchPoint, *, overwrite: bool = False) -> tuple[Sidecar, str]:
    """Make a branch; returns its record, and what was said."""
    said: list[str] = []
    begin_branch(point, overwrite=overwrite)
    request = point.job.request
    loaded = load(prepare(check(request)), [request.prompt])
    record = loaded.make(
        request, point.job.path, overwrite=overwrite, resume=Resume.YES, said=said.append
    )
    return record, said[-1]


def frames(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def chunk_hashes(path: Path) -> Sequence[str]:
    return read_sidecar(path).chunk_hashes


def test_a_second_is_rounded_down_to_a_border_between_chunks(parent: Path) -> None:
    take = Take.find(parent)
    for second, chunk, frame in (
        (0.0, 0, 0),
        (0.5, 0, 0),
        (9 / 16, 1, 9),
        (1.3, 1, 9),
        (4.4, 6, 69),
    ):
        border = take.border(second)
        assert (border.chunk, border.frame) == (chunk, frame)
        assert border.second == frame / 16
    for second in (-1.0, 141 / 16, 1e9):
        with pytest.raises(ValueError, match=r"must be in the video, which has 8\.8"):
            take.border(second)


@pytest.mark.parametrize("at", [0.0, 1.0, 4.4, 4.3125, 8.5])
@pytest.mark.parametrize("source", ["parent", pytest.param("bare", marks=pytest.mark.slow)])
def test_a_branch_with_nothing_changed_is_its_parent(
    request: pytest.FixtureRequest, source: str, at: float, tmp_path: Path
) -> None:
    origin: Path = request.getfixturevalue(source)
    point = plan_branch(origin, at, tmp_path / "take.mp4")
    _, said = follow(point)
    nearest = point.border.chunk // 3 * 3 if source == "parent" else 0
    assert ("going on" in said) == bool(nearest)
    if nearest:
        assert f"chunk {nearest} of" in said
    assert (tmp_path / "take.mp4").read_bytes() == origin.read_bytes()
    assert chunk_hashes(tmp_path / "take.mp4") == chunk_hashes(origin)


@pytest.mark.parametrize("source", ["parent", pytest.param("bare", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "future", [{"text": OTHER}, {"seed": 99}, {"then": (Change(6.5, text=OTHER, how="recache"),)}]
)
def test_another_future_has_the_same_past(
    request: pytest.FixtureRequest, source: str, future: dict[str, Any], tmp_path: Path
) -> None:
    origin: Path = request.getfixturevalue(source)
    point = plan_branch(origin, 4.6, tmp_path / "take.mp4", **future)
    assert point.border.chunk == 6
    follow(point)
    ours, theirs = chunk_hashes(point.job.path), chunk_hashes(origin)
    first = 9 if "then" in future else 6
    assert ours[:first] == theirs[:first]
    assert all(a != b for a, b in zip(ours[first:], theirs[first:], strict=True))
    if source == "parent":  # copied, not encoded again
        assert (frames(point.job.path)[:69] == frames(origin)[:69]).all()


def test_a_branch_does_not_care_where_its_snapshot_lies(
    parent: Path, bare: Path, tmp_path: Path
) -> None:
    files = []
    for number, origin in enumerate((parent, bare)):
        point = plan_branch(origin, 5.5, tmp_path / f"{number}.mp4", text=OTHER)
        follow(point)
        files.append(point.job.path.read_bytes())
    assert files[0] == files[1]


def test_what_is_made_again_is_said_first(parent: Path, bare: Path, tmp_path: Path) -> None:
    near = plan_branch(parent, 5.5, tmp_path / "take.mp4")
    far = plan_branch(bare, 5.5, tmp_path / "take.mp4")
    assert (near.replayed, far.replayed) == (1, 7)
    assert near.describe().startswith(
        "from second 5.06 of video.mp4, chunk 7; 1 chunks since the snapshot at second 4.31"
    )
    assert "7 chunks since its start are made again first, which took" in far.describe()


def test_a_branch_of_a_branch_and_the_tree_of_takes(parent: Path, tmp_path: Path) -> None:
    root = tmp_path / "video.mp4"
    for suffix in (".mp4", ".json"):
        os.link(parent.with_suffix(suffix), root.with_suffix(suffix))
    first = plan_branch(root, 4.4, next_take(root), text=OTHER)
    assert first.job.path.name == "video-take-2.mp4"
    follow(first)
    second = plan_branch(first.job.path, 6.0, next_take(first.job.path), seed=8)
    assert second.job.path.name == "video-take-3.mp4"
    follow(second)
    (tmp_path / "other.mp4").write_bytes(b"not ours")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.mp4").write_bytes(b"")
    (top,), problems = find_takes(tmp_path)
    assert top.take.path == root
    (child,) = top.branches
    assert (child.take.path.name, child.at) == ("video-take-2.mp4", 4.3125)
    (grandchild,) = child.branches
    assert grandchild.take.path.name == "video-take-3.mp4"
    assert grandchild.take.request.seed == 3
    assert [change.to_dict() for change in grandchild.take.request.then] == [
        {"at": 4.3125, "text": OTHER, "how": "soft"},
        {"at": 5.8125, "seed": 8},
    ]
    assert len(problems) == 1
    assert problems[0].startswith("broken.mp4")
    moved = tmp_path / "moved"
    moved.mkdir()
    os.link(first.job.path.with_suffix(".mp4"), moved / "a.mp4")
    os.link(first.job.path.with_suffix(".json"), moved / "a.json")
    (alone,), _ = find_takes(moved)
    assert alone.at == 4.3125


def test_a_branch_shares_its_parents_snapshot(parent: Path, tmp_path: Path) -> None:
    point = plan_branch(parent, 4.4, parent.with_name("shared.mp4"), text=OTHER)
    begin_branch(point)
    (mine,) = Snapshots(snapshot_folder(point.job.path)).whole()
    theirs = next(s for s in Snapshots(snapshot_folder(parent)).whole() if s.chunk == mine.chunk)
    assert mine.data_path.samefile(theirs.data_path)
    before = theirs.load()
    follow(point, overwrite=True)
    assert theirs.load().keys() == before.keys()
    for path in parent.parent.glob("shared*"):
        if path.is_file():
            path.unlink()


def test_an_unfinished_video_branches_while_it_is_made(
    request_: tc.VideoRequest, parent: Path, tmp_path: Path
) -> None:
    run = Run(loaded_for(request_), tmp_path)
    made = []

    def told(recording: Any) -> None:
        if recording.chunks == 8:
            point = plan_branch(run.path, 4.5, tmp_path / "take.mp4", text=OTHER)
            assert point.snapshot is not None
            made.append(follow(point))

    run.loaded.make(request_, run.path, told=told)
    assert run.path.read_bytes() == parent.read_bytes()
    assert made
    assert chunk_hashes(tmp_path / "take.mp4")[:6] == chunk_hashes(parent)[:6]


@pytest.mark.parametrize("to", [0.0, 1.0, 4.5, 8.0])
@pytest.mark.parametrize("source", ["parent", pytest.param("bare", marks=pytest.mark.slow)])
def test_going_back_and_on_equals_a_run_that_never_did(
    request: pytest.FixtureRequest, source: str, to: float, tmp_path: Path
) -> None:
    origin: Path = request.getfixturevalue(source)
    video = tmp_path / "video.mp4"
    for path in (origin, origin.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if source == "parent":
        shutil.copytree(snapshot_folder(origin), snapshot_folder(video))
    point = plan_branch(video, to)
    begin_branch(point)
    assert video.read_bytes() == origin.read_bytes()  # until the new one is complete
    follow(point, overwrite=True)
    assert video.read_bytes() == origin.read_bytes()
    assert chunk_hashes(video) == chunk_hashes(origin)


def test_a_video_goes_back_and_changes(parent: Path, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    for path in (parent, parent.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    follow(plan_branch(video, 4.5, text=OTHER), overwrite=True)
    assert chunk_hashes(video)[:6] == chunk_hashes(parent)[:6]
    assert chunk_hashes(video)[6] != chunk_hashes(parent)[6]
    assert read_sidecar(video).settings["changes"] == [
        {"at": 4.3125, "frame": 69, "text": OTHER, "how": "soft"}
    ]


@pytest.mark.parametrize("until", [2, 8])
def test_an_unfinished_video_goes_back(
    request_: tc.VideoRequest, parent: Path, tmp_path: Path, until: int
) -> None:
    run = Run(loaded_for(request_), tmp_path)
    run.broken(until)
    begin_branch(plan_branch(run.path, 4.4))
    follow(plan_branch(run.path, 1.0))
    assert run.path.read_bytes() == parent.read_bytes()


def test_a_running_video_is_not_turned_back_by_another(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    run = Run(loaded_for(request_), tmp_path)

    def told(recording: Any) -> None:
        if recording.chunks == 5:
            with pytest.raises(FileExistsError, match="another run"):
                begin_branch(plan_branch(run.path, 1.0))
            raise StopIteration  # seen

    with pytest.raises((StopIteration, RuntimeError)):
        run.loaded.make(request_, run.path, told=told)
    assert partial_path(run.path).exists()


def test_names_are_checked_and_what_is_there_is_kept(parent: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        begin_branch(plan_branch(parent, 4.4, taken))
    assert taken.read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError, match="no such video with a record"):
        plan_branch(tmp_path / "missing.mp4", 1.0)


def test_a_longer_branch(parent: Path, tmp_path: Path) -> None:
    point = plan_branch(parent, 8.0, tmp_path / "long.mp4", seconds=12.0)
    follow(point)
    assert probe(tmp_path / "long.mp4").num_frames == 192
    assert chunk_hashes(tmp_path / "long.mp4")[:11] == chunk_hashes(parent)[:11]
