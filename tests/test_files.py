from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tethercache.files import (
    check_free,
    check_space,
    new_folder,
    read_object,
    replacing,
    sha256,
    write_atomically,
)
from tethercache.video import DiskFullError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_another_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("older")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "older"
    assert path.read_text() == "new"
    write_atomically(path, "über")
    assert path.read_bytes() == "über".encode()
    assert names(tmp_path) == ["results.json"]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:  # noqa: PT012
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "older"
    assert names(tmp_path) == ["results.json"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("report.html", "report.html.partial"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(tmp_path / "report.html", b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_bytes() == b"new"


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_names_the_file_and_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "results.json"
    path.write_text("older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"free some space and run again.*results\.json"):
        write_atomically(path, b"new")
    assert path.read_text() == "older"
    assert names(tmp_path) == ["results.json"]


def test_any_error_of_the_disk_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as the system does: it names none

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=r"Input/output error.*results\.json"):
        write_atomically(tmp_path / "results.json", b"new")


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="a pipe, socket or device has this name"):
            check_free(tmp_path / "pipe", overwrite=overwrite)
        with pytest.raises(IsADirectoryError, match="a folder has this name"):
            check_free(tmp_path / "folder", overwrite=overwrite)
        with pytest.raises(ValueError, match="is too long for this folder"):
            check_free(tmp_path / ("x" * 256), overwrite=overwrite)
    for name in ("file", "link"):
        check_free(tmp_path / name, overwrite=True)
        with pytest.raises(FileExistsError, match="`overwrite` is off"):
            check_free(tmp_path / name, overwrite=False)


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "made", 1)
    with pytest.raises(DiskFullError, match=r"about .* MB are needed here and .* MB are free"):
        check_space(tmp_path / "not" / "made", 1 << 60)


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert names(tmp_path) == ["model"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other") as folder:  # noqa: PT012
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="model"), new_folder(tmp_path / "model"):
        pass
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["config.json"]


def test_the_hash_of_a_file_is_that_of_its_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a" * (1 << 20))
    other.write_bytes(b"b")
    assert sha256(one) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert sha256(one, other) == hashlib.sha256(one.read_bytes() + b"b").hexdigest()


def test_an_object_of_json_is_read_whole_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"a": [1]}')
    assert read_object(path, 100) == {"a": [1]}
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "nothing", 100)
    with pytest.raises(ValueError, match="it is no ordinary file"):
        read_object(tmp_path / "pipe", 100)
    for content, most, message in (
        ("[1]", 100, "it is no object of JSON"),
        ('{"a": ', 100, "it is not JSON: Expecting value"),
        ("[" * 100_000, 1 << 20, "it is not JSON: maximum recursion depth"),
        (" " * (2 << 20), 1 << 20, "it is larger than 1 MB"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as raised:
            read_object(path, most)
        assert "\n" not in str(raised.value)
