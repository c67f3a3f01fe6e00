"""Snapshots: the state of a video in the making, on disk, whole at every moment.

    NAME.resume/
        00000045.safetensors    the tensors of the state after 45 chunks
        00000045.json           the rest of it, and all that tells whether it fits; written last

A snapshot is there when its manifest, the JSON, is. The manifest names size and SHA-256 of the
data, and has a hash of its own. Everything is written under another name, reaches the disk, and
gets its name then; old snapshots go only after that. So a crash at any moment leaves whole ones.

Only the run that has locked the partial video writes here. Reading is safe at any time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.errors import TetherCacheError
from tethercache.files import (
    TEMPORARY,
    disk_full_advice,
    read_object,
    replacing,
    sha256,
    sync_folder,
    temporary_beside,
)
from tethercache.state import State, join, split

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
SUFFIX = ".resume"
_MAX_MANIFEST = 256 << 20
_DIGITS = 8


class DamagedSnapshotError(TetherCacheError):
    """A snapshot cannot be read, or is not what was written."""


def snapshot_folder(video: str | os.PathLike[str]) -> Path:
    """Where the snapshots of `NAME.mp4` are: `NAME.resume`."""
    return Path(video).with_suffix(SUFFIX)


@dataclass(frozen=True)
class Snapshot:
    """One snapshot whose manifest is whole; its data has not been read.

    Attributes:
        path: the manifest.
        chunk: how many chunks are made.
        about: what the writer says of the video, any JSON.
        size: bytes of manifest and data.
    """

    path: Path
    chunk: int
    about: Mapping[str, Any]
    size: int
    _data: Mapping[str, Any]
    _rest: Any

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """Read a manifest.

        Raises:
            DamagedSnapshotError: it is not whole, or of a version that is not known.
        """
        try:
            found = read_object(path, _MAX_MANIFEST)
        except (OSError, ValueError) as error:
            raise DamagedSnapshotError(f"{path} cannot be read: {error}") from error
        if found.get("format") != FORMAT:
            raise DamagedSnapshotError(f"{path} is of another version of snapshots")
        body = found.get("body")
        if not isinstance(body, dict) or found.get("sha256") != _hash(body):
            raise DamagedSnapshotError(f"{path} is damaged")
        try:
            size = path.stat().st_size + int(body["data"]["size"])
            chunk, about = int(body["chunk"]), dict(body["about"])
            return cls(path, chunk, about, size, dict(body["data"]), body["state"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamagedSnapshotError(f"{path} has missing or wrong parts: {error}") from error

    def load(self) -> State:
        """The state, after its data was compared with its hash.

        Raises:
            DamagedSnapshotError: the data is not what was written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        data = self.data_path
        try:
            if data.stat().st_size != self._data["size"] or sha256(data) != self._data["sha256"]:
                raise DamagedSnapshotError(f"{data} is damaged")
            tensors = load_file(data)
            state: State = join(tensors, self._rest)
        except (OSError, SafetensorError, KeyError, RecursionError) as error:
            raise DamagedSnapshotError(f"{data} cannot be read: {error}") from error
        return state

    @property
    def data_path(self) -> Path:
        """The file of its tensors."""
        return self.path.with_suffix(".safetensors")


class Snapshots:
    """The snapshots of one video.

    Args:
        folder: `NAME.resume`; made with the first snapshot.
        keep: how many of the newest stay.
        budget: bytes that older ones may take; those that stay are spread over the video.
    """

    def __init__(self, folder: Path, *, keep: int = 2, budget: int = 0) -> None:
        self.folder = folder
        self.keep = keep
        self.budget = budget

    def __iter__(self) -> Iterator[Snapshot | DamagedSnapshotError]:
        """All that are there, the newest first; those that cannot be read as their error."""
        for path in sorted(self.folder.glob("[0-9]*.json"), reverse=True):
            try:
                yield Snapshot.read(path)
            except DamagedSnapshotError as error:
                yield error

    def whole(self) -> list[Snapshot]:
        """Those whose manifest is whole, the newest first."""
        return [found for found in self if isinstance(found, Snapshot)]

    def write(self, chunk: int, state: State, about: Mapping[str, Any]) -> None:
        """Write a snapshot, wait until the disk has it, then remove those that need not stay.

        Args:
            chunk: how many chunks are made.
            state: what shall be kept; see `tethercache.state`.
            about: what tells whether it fits, any JSON.

        Raises:
            OSError: it cannot be written; those before it stay.
        """
        self._make_folder()
        path = self._manifest(chunk)
        tensors, rest = split(state)
        data = path.with_suffix(".safetensors")
        advice = "the video goes on, but a crash loses more of it; free some space"
        temporary = temporary_beside(data)
        try:
            with disk_full_advice(data, advice):
                _save(tensors, temporary)
            described = {"size": temporary.stat().st_size, "sha256": sha256(temporary)}
            path.unlink(missing_ok=True)  # a manifest must not describe other data
            temporary.replace(data)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        body = {"chunk": chunk, "about": dict(about), "data": described, "state": rest}
        self._write_manifest(path, body)
        self._thin()

    def adopt(self, snapshot: Snapshot, about: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
        """Take over another video's snapshot; its data is shared where the file system can.

        Args:
            snapshot: the other's, or one of this video.
            about: what shall be said of this video.
            rest: parts of the state that are no tensors and replace the other's.
        """
        self._make_folder()
        path = self._manifest(snapshot.chunk)
        data = path.with_suffix(".safetensors")
        if data != snapshot.data_path:
            data.unlink(missing_ok=True)
            try:
                os.link(snapshot.data_path, data)
            except OSError:
                shutil.copyfile(snapshot.data_path, data)
        state = {**snapshot._rest, **rest}
        body = {"chunk": snapshot.chunk, "about": dict(about), "data": dict(snapshot._data)}
        self._write_manifest(path, {**body, "state": state})

    def remove(self, chunks: Sequence[int] | None = None) -> None:
        """Remove snapshots, and the folder if nothing is left; None: all, damaged ones too."""
        if chunks is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for chunk in chunks:
            path = self._manifest(chunk)
            path.unlink(missing_ok=True)  # first: without it the data means nothing
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remove_after(self, chunk: int) -> None:
        """Remove those of later chunks: the video goes on from an earlier one."""
        self.remove([number for number in self._numbers() if number > chunk])

    def sweep(self) -> None:
        """Remove what a run that broke off was writing here."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def finish(self) -> None:
        """The video is complete: only what the budget allows stays."""
        self.sweep()
        self.remove([found.chunk for found in self.whole() if found.chunk not in self._spread(0)])
        if not self.whole():
            self.remove()

    def _thin(self) -> None:
        """Remove what is neither new nor within the budget."""
        stays = self._spread(self.keep)
        self.remove([number for number in self._numbers() if number not in stays])

    def _spread(self, keep: int) -> set[int]:
        """The newest ones, and of the others those that are spread best within the budget.

        While they take too much, the one goes whose neighbours are nearest to each other.
        """
        found = self.whole()
        newest, older = found[:keep], found[keep:]
        numbers = [snapshot.chunk for snapshot in older]
        sizes = {snapshot.chunk: snapshot.size for snapshot in older}
        end = found[0].chunk if found else 0
        while numbers and sum(sizes[number] for number in numbers) > self.budget:
            places = [end, *numbers, 0]  # falling
            gaps = [places[i] - places[i + 2] for i in range(len(numbers))]
            del numbers[gaps.index(min(gaps))]
        return {*numbers, *(snapshot.chunk for snapshot in newest)}

    def _numbers(self) -> list[int]:
        """The chunks of all files that are there, whole or not."""
        names = {path.stem for path in self.folder.glob("[0-9]*") if path.stem.isdecimal()}
        return sorted(map(int, names))

    def _manifest(self, chunk: int) -> Path:
        return self.folder / f"{chunk:0{_DIGITS}d}.json"

    def _make_folder(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            message = "no folder has this name, but snapshots go there; move it away"
            raise FileExistsError(errno.EEXIST, message, str(self.folder))
        if not self.folder.exists():
            self.folder.mkdir()
            sync_folder(self.folder.parent)

    def _write_manifest(self, path: Path, body: Mapping[str, Any]) -> None:
        body = json.loads(json.dumps(body))  # as it will be read
        text = json.dumps({"format": FORMAT, "sha256": _hash(body), "body": body})
        with disk_full_advice(path, "free some space"), replacing(path) as file:
            file.write(text.encode())
        sync_folder(self.folder)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that did not exist, and wait until the disk has it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # holds the system's error as text alone
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _hash(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
