"""Names of videos, and what of them is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tethercache.files import DiskFullError
from tethercache.render import Recording, batch, check, load, prepare
from tethercache.render.batch import Job, check_folder, check_room, name_videos, slug
from tethercache.render.snapshots import Snapshots
from tethercache.request import VideoRequest

REQUEST = VideoRequest("a prompt")


def test_one_video_has_the_name_given_or_that_of_its_prompt(tmp_path: Path) -> None:
    def path(output: Path | None) -> Path:
        (job,) = name_videos(REQUEST, ["A ball"], 1, output)
        return job.path

    assert path(None) == Path("a-ball.mp4")
    assert path(tmp_path / "x.mp4") == tmp_path / "x.mp4"
    assert path(tmp_path) == tmp_path / "a-ball.mp4"
    (tmp_path / "folder.mp4").mkdir()
    assert path(tmp_path / "folder.mp4") == tmp_path / "folder.mp4/a-ball.mp4"
    with pytest.raises(ValueError, match=r"must end in \.mp4 or be a folder that exists"):
        path(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red ball, rolling!", "a-red-ball-rolling"),
        ("Ünïcode / path\\s", "unicode-path-s"),
        ("two\u2028lines\x85here", "two-lines-here"),
        ("球", "video"),
        ("x" * 300, "x" * 60),
        ("CON", "con-video"),
        ("lpt1", "lpt1-video"),
        ("nul.txt", "nul-txt"),
    ],
)
def test_prompts_become_safe_file_names(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_the_names_of_a_batch_differ_whatever_the_prompts() -> None:
    jobs = name_videos(REQUEST, ["球", "球", "con", "CON", "video"] * 300, 2, None)
    assert len({job.path.name.casefold() for job in jobs}) == len(jobs) == 3000


@pytest.mark.parametrize(
    ("num_samples", "message"), [(0, "`num_samples`"), (10**9, r"2000000000 videos.*100000")]
)
def test_a_batch_has_a_size(num_samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        name_videos(REQUEST, ["a", "b"], num_samples, None)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new/newer")
    for path in ("file", "file/new"):
        with pytest.raises(NotADirectoryError, match="not a folder"):
            check_folder(tmp_path / path)
    with pytest.raises(ValueError, match="too long"):
        check_folder(tmp_path / ("x" * 300) / "new")
    assert not (tmp_path / "new").exists()


def test_there_must_be_room_for_the_snapshots_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = VideoRequest("a red ball", latent_frames=24, model=str(model), snapshot_every=0.0)
    order, job = prepare(check(request)), Job(request, tmp_path / "video.mp4")
    taken = []

    def told(recording: Recording) -> None:
        taken.extend(snapshot.size for snapshot in Snapshots(tmp_path / "video.resume").whole())

    load(order, [request.prompt]).make(request, job.path, told=told)
    # a cache of 21 frames is nearly full; a snapshot holds no rotated keys
    assert max(taken) <= 1.2 * batch._snapshot_bytes(order) <= 4 * max(taken)
    usage = SimpleNamespace(free=2 * batch._snapshot_bytes(order))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DiskFullError, match=r"--keep-snapshots 0 needs .* MB less"):
        check_room([job], order)
    bare = replace(request, keep_snapshots=0)
    check_room([Job(bare, job.path)], replace(order, request=bare))
