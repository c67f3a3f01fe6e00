"""Files and folders that are either complete or not there, locks on them, and their hashes.

Whoever writes a file in this project writes it through here: it is created under another name,
never through a link that lies there, and gets its name when it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from tethercache.text import reason

if TYPE_CHECKING:
    from hashlib import _Hash

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY = ".tethercache-"
"""How names of files begin that are being written."""

_LOCKED_BYTE = (1 << 31) - 2  # far behind: on Windows nobody else can read what is locked


class DiskFullError(OSError):
    """The disk, a quota or the largest size of a file was exhausted while writing."""


class Completed(ABC):
    """What is completed when its `with` block ends, and left as it is after an exception."""

    @abstractmethod
    def close(self) -> None:
        """Complete it."""

    @abstractmethod
    def abandon(self) -> None:
        """Leave what is there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


@contextmanager
def disk_full_advice(path: Path, advice: str) -> Iterator[None]:
    """Turn "no space left" in the block into a `DiskFullError` that names `path` and what to do.

    Another error of the system that names no file is raised as it is, and names `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = error.filename or str(path)
            raise
        message = f"{os.strerror(error.errno)}: {advice}"
        raise DiskFullError(error.errno, message, str(path)) from error


def check_space(folder: Path, needed: int, advice: str = "") -> None:
    """Refuse to begin where less than `needed` bytes are free.

    Args:
        folder: where; if it does not exist yet, its parents count.
        needed: an estimate.
        advice: what else may help.

    Raises:
        DiskFullError: less is free.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        message = (
            f"about {needed / 1e6:,.1f} MB are needed here and {free / 1e6:,.1f} MB are free; "
            f"free some space or choose another folder{advice}"
        )
        raise DiskFullError(errno.ENOSPC, message, str(folder))


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that a folder has, or that a file has and `overwrite` is false.

    Raises:
        ValueError: the name is too long.
        IsADirectoryError: a folder has it.
        FileExistsError: a file has it; or a pipe, socket or device, whatever `overwrite` is.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"the file name `{path.name}` is too long for this folder") from error
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has this name", str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        message = "a pipe, socket or device has this name; choose another"
        raise FileExistsError(errno.EEXIST, message, str(path))
    if not overwrite:
        raise FileExistsError(errno.EEXIST, "file exists and `overwrite` is off", str(path))


def create(path: Path) -> FileIO:
    """A new file to read and write, without a buffer; never one that exists, nor behind a link."""
    return path.open("x+b", buffering=0)


def open_existing(path: Path) -> BinaryIO:
    """An ordinary file to read and write, without a buffer; never through a link.

    Raises:
        FileNotFoundError: there is none.
        FileExistsError: a link, pipe, folder or device has this name.
    """
    # Windows has no such links; without `O_NONBLOCK` a pipe would wait for its other end
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    strange = "no ordinary file has this name, but a link, pipe, folder or device; remove it"
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, strange, str(path))
        fd = os.open(path, os.O_RDWR | flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileExistsError(errno.EEXIST, strange, str(path)) from error
        raise
    return os.fdopen(fd, "r+b", buffering=0)


def lock(file: BinaryIO, path: Path) -> None:
    """Lock an open file until it is closed or the process ends.

    On a file system without locks nothing is locked.

    Raises:
        FileExistsError: another process, or another part of this one, has locked it; or another
            file has the name `path` by now.
    """
    is_free = True
    try:
        if sys.platform == "win32":
            position = file.seek(0, os.SEEK_CUR)
            file.seek(_LOCKED_BYTE)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                file.seek(position)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        is_free = error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
    if not is_free or not is_at(file, path):
        message = "another run is writing this video; choose another name"
        raise FileExistsError(errno.EEXIST, message, str(path))


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove_open(file: BinaryIO, path: Path) -> None:
    """Delete and close an open file, unless its name is another file's by now."""
    if is_at(file, path):
        try:
            path.unlink()
        except PermissionError:  # Windows keeps files that are open
            file.close()
            path.unlink()
    file.close()


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter[FileIO]]:
    """A new file that takes the name `path`, from whatever has it, when the block ends.

    Until then it has a name that nobody else has. An exception leaves what was there.
    """
    temporary = temporary_beside(path)
    try:
        with BufferedWriter(create(temporary)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the name `path`, which nothing has yet, when the block ends.

    Until then it has a name that nobody else has, which the block is given. An exception leaves
    nothing.
    """
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that nobody has."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.partial")


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can do that."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a small file, text in UTF-8, so that `path` is never half written."""
    if isinstance(content, str):
        content = content.encode()
    with disk_full_advice(path, "free some space and run again"), replacing(path) as file:
        file.write(content)


def write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write everything to a file without a buffer, whose `write` may do a part."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def read_object(path: Path, most: int) -> dict[str, Any]:
    """Read an object of JSON, of at most so many bytes, that anybody may have written.

    Raises:
        OSError: it cannot be read.
        ValueError: the file is no ordinary one, too large, or no object of JSON.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no ordinary file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 20} MB")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {reason(error)}") from error
    if not isinstance(record, dict):
        raise ValueError("it is no object of JSON")
    return record


def sha256(*paths: Path) -> str:
    """SHA-256 of a file in hexadecimal; of several, as if they were one after the other in one."""
    digest = hashlib.sha256()
    for path in paths:
        add_file(digest, path)
    return digest.hexdigest()


def add_file(digest: _Hash, path: Path) -> None:
    """Let the contents of a file go into a digest."""
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
