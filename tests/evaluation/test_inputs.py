"""What is found to evaluate, and what is named because it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest

from tests.evaluation.scenes import frames, write
from tethercache.evaluation.images import image_files
from tethercache.evaluation.inputs import Input, find_inputs
from tethercache.evaluation.measure import SkippedVideoError, measure_video
from tethercache.evaluation.options import Options


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(inputs: list[Input]) -> list[str]:
    return [each.name for each in inputs]


def test_videos_are_found_in_folders_and_named_once(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "c.txt", "d.json", "e.wav", ".hidden.mp4", "two/b.mp4"):
        touch(tmp_path / name)
    found = find_inputs([tmp_path, tmp_path / "a.webm"])
    assert names(found) == ["a.webm", "b.mp4", "e.wav", "two/b.mp4"]
    with pytest.raises(ValueError, match="no such file or folder"):
        find_inputs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no videos in"):
        find_inputs([tmp_path / "empty"])


def test_equal_names_are_told_apart_and_paths_are_not_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x/seed/a.mp4", "y/seed/a.mp4", "y/seed/b.mp4"):
        touch(tmp_path / name)
    found = find_inputs([tmp_path / "x/seed", tmp_path / "y/seed"])
    assert names(found) == ["b.mp4", "x/seed/a.mp4", "y/seed/a.mp4"]
    assert [each.shown for each in found] == ["seed/b.mp4", "seed/a.mp4", "seed/a.mp4"]
    monkeypatch.chdir(tmp_path)
    again = find_inputs([Path("x/seed"), Path("y"), tmp_path / "y/seed/b.mp4"])
    assert names(again) == ["a.mp4", "seed/a.mp4", "seed/b.mp4"]
    assert [each.shown for each in again] == ["x/seed/a.mp4", "y/seed/a.mp4", "y/seed/b.mp4"]


def test_what_cannot_be_opened_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "good.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "round").symlink_to(".")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("tethercache.evaluation.inputs.os.scandir", refusing)
    problems = {each.name: each.problem for each in find_inputs([tmp_path])}
    assert problems == {
        "good.mp4": "",
        "pipe.mp4": "is no ordinary file, but a pipe, socket or device",
        "gone.mp4": "is a broken link",
        "loop.mp4": "cannot be read: Too many levels of symbolic links",
        "secret": "cannot be read: Permission denied",
    }
    ((_, problem),) = [(e.name, e.problem) for e in find_inputs([tmp_path / "pipe.mp4"])]
    assert "pipe" in problem


def test_the_folder_of_the_report_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "evaluation/vbench/clips/a_000.mp4")
    assert names(find_inputs([tmp_path], without=tmp_path / "evaluation")) == ["a.mp4"]


def write_images(folder: Path, count: int, fault: str = "none") -> Path:
    folder.mkdir(parents=True)
    for index, rgb in zip(range(count), frames(fault), strict=False):
        cv2.imwrite(str(folder / f"frame_{index}.png"), rgb[..., ::-1])
    return folder


def test_folders_of_images_are_videos(tmp_path: Path) -> None:
    write_images(tmp_path / "all/a cat", 40)
    write_images(tmp_path / "all/poster", 2)
    write(tmp_path / "all/b.mp4", seconds=1)
    write_images(tmp_path / "all/b/frames", 12)
    assert names(find_inputs([tmp_path / "all"])) == ["a cat", "b.mp4", "b/frames"]
    assert names(find_inputs([tmp_path / "all/poster"])) == ["poster"]
    assert names(find_inputs([tmp_path / "all/a cat"])) == ["a cat"]
    ordered = [path.name for path in image_files(tmp_path / "all/a cat")]
    assert ordered == [f"frame_{index}.png" for index in range(40)]


def test_a_folder_of_images_measures_what_its_video_does(tmp_path: Path) -> None:
    video = measure_video(write(tmp_path / "a.mp4", "saturation", seconds=10))
    folder = write_images(tmp_path / "a", 160, "saturation")
    images = measure_video(folder)
    assert images.video["seconds"] == pytest.approx(10)
    assert (images.video["codec"], images.video["frames"]) == ("images (png)", 160)
    assert images.metrics["chroma"] == pytest.approx(video.metrics["chroma"], abs=1.5)
    assert measure_video(folder, Options(image_fps=8)).video["seconds"] == pytest.approx(20)
    (folder / "frame_7.png").write_bytes(b"no picture")
    with pytest.raises(SkippedVideoError, match=r"frame_7\.png"):
        measure_video(folder)
    with pytest.raises(ValueError, match="image_fps"):
        Options(image_fps=float("nan"))
