"""The JSON files of a finished run: of a folder, its sub-folders, a zip, or one file alone."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tethercache.text import reason

LARGEST = 512 << 20
"""Bytes of all JSON files together, unpacked; more is refused before it is read."""
_DEEPEST = 4


@dataclass(frozen=True)
class Document:
    """One JSON file of a run.

    Attributes:
        name: relative to the folder or zip that was given.
        content: what it holds, or
        problem: why it could not be read.
    """

    name: str
    content: Any = None
    problem: str = ""

    @property
    def folder(self) -> str:
        """Where it lies, relative; empty at the top."""
        parent = str(PurePosixPath(self.name).parent)
        return "" if parent == "." else parent


def is_finished_run(path: Path) -> bool:
    """Whether a path may be a finished run: a folder with JSON files, a zip or a JSON file."""
    if path.is_dir():
        return any(True for _ in _folder_files(path, []))
    return path.is_file() and path.suffix.lower() in (".zip", ".json")


def read_documents(path: Path) -> list[Document]:
    """All JSON files of a run, those at the top first, then by name: VBench's hold the time.

    Raises:
        ValueError: the zip cannot be read, or the files are too large.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() == ".zip":
        return _read_zip(path)
    _check_size(path.stat().st_size, path)
    return [_read(path.name, path.read_bytes)]


def _read_folder(folder: Path) -> list[Document]:
    unreadable: list[Document] = []
    paths = sorted(_folder_files(folder, unreadable), key=lambda path: (len(path.parts), path))
    _check_size(sum(path.stat().st_size for path in paths), folder)
    read = [_read(path.relative_to(folder).as_posix(), path.read_bytes) for path in paths]
    return [*unreadable, *read]


def _folder_files(folder: Path, unreadable: list[Document]) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        name = os.path.relpath(error.filename, folder)
        unreadable.append(Document(name, problem=reason(error)))

    for root, folders, names in os.walk(folder, onerror=refused):
        depth = len(Path(root).relative_to(folder).parts)
        folders[:] = [name for name in folders if _is_wanted(name) and depth + 1 < _DEEPEST]
        for name in names:
            path = Path(root, name)
            if _is_wanted(name) and name.lower().endswith(".json") and path.is_file():
                yield path


def _is_wanted(name: str) -> bool:
    return not name.startswith((".", "__"))


def _read_zip(path: Path) -> list[Document]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.lower().endswith(".json")
                and all(_is_wanted(part) for part in member.filename.split("/"))
            ]
            members.sort(key=lambda member: (member.filename.count("/"), member.filename))
            _check_size(sum(member.file_size for member in members), path)
            return [
                _read(member.filename, lambda member=member: archive.read(member))  # type: ignore[misc]
                for member in members
            ]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a zip file: {error}") from error


def _check_size(size: int, path: Path) -> None:
    if size > LARGEST:
        raise ValueError(
            f"{path} holds {size / 1e6:.0f} MB of JSON files; at most {LARGEST / 1e6:.0f} are read"
        )


def _read(name: str, content: Callable[[], bytes]) -> Document:
    try:
        return Document(name, json.loads(content().decode("utf-8-sig")))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return Document(name, problem=reason(error))
    except (RuntimeError, NotImplementedError) as error:  # nested too deep; encrypted; compression
        return Document(name, problem=reason(error))
