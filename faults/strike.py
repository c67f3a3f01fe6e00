"""What happens to a process at its n-th operation on the files of a folder.

An operation is what changes a file or a name: opening to write, writing, cutting off, waiting for
the disk, renaming, removing, linking, making a folder. Between any two of them the files are in
one state; so whoever has killed a process at each of its operations has seen all of them. Only
libraries that write by themselves (safetensors) are seen at their ends alone.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_AUDITED = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.link": "link",
}
_NEEDS_ROOM = {"open", "write", "mkdir", "link", "fsync"}
_SIGNALS = {
    "kill": signal.SIGKILL,
    "power": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
}
_JUMP = 40 * 86_400.0


@dataclass(frozen=True)
class Strike:
    """What happens, and when.

    Attributes:
        act: "": nothing, operations are only noted; "kill", "stop", "term", "int": a signal;
            "power": what the disk has not got of the file is lost in part, then SIGKILL; "clock":
            the time of day jumps at every operation from then on; "ENOSPC", "EROFS", "EIO": what
            the operation answers.
        at: number of the operation, from 1.
        lasting: whether all operations behind it fail, too.
        part: of a write, or of what is lost, that is done.
    """

    act: str = ""
    at: int = 0
    lasting: bool = True
    part: float = 0.5


class _Watched(io.FileIO):
    """A file without a buffer, whose operations are noted."""

    def write(self, data: Any) -> int:
        with _state.lock:
            if not _state.note("write", _path(self.fileno())):
                return super().write(data)
            whole = bytes(data)
            done = super().write(whole[: int(len(whole) * _state.strike.part)])
            _happen(_state.strike, self.fileno())
            return done + super().write(whole[done:])

    def truncate(self, size: int | None = None) -> int:
        _operation("truncate", _path(self.fileno()))
        return super().truncate(size)


class _State:
    """Of this process."""

    def __init__(self, strike: Strike, folder: Path, trace: int) -> None:
        self.strike = strike
        self.folder = os.path.realpath(folder)
        self.trace = trace
        self.count = 0
        self.lock = threading.RLock()
        self.synced: dict[int, int] = {}

    def note(self, name: str, path: str) -> bool:
        """Note an operation; whether something happens at it."""
        if not path.startswith(self.folder + os.sep):
            return False
        self.count += 1
        os.write(self.trace, f"{name} {os.path.relpath(path, self.folder)}\n".encode())
        strike = self.strike
        if self.count < strike.at or not strike.act:
            return False
        if strike.act == "ENOSPC" and name not in _NEEDS_ROOM:
            return False
        if strike.act in _SIGNALS or not strike.lasting:
            return self.count == strike.at
        return True


_state: _State


def install(strike: Strike, folder: Path, trace: int) -> None:
    """Let it happen in this process; for good.

    Args:
        strike: what.
        folder: whose files count.
        trace: a descriptor that the operations are written to, one a line.
    """
    global _state
    _state = _State(strike, folder, trace)
    plain_open, plain_fsync = io.open, os.fsync

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if buffering == 0 and "b" in mode:
            return _Watched(file, mode)
        return plain_open(file, mode, buffering, *rest, **named)

    def synced(descriptor: int) -> None:
        _operation("fsync", _path(descriptor), descriptor)
        plain_fsync(descriptor)
        _state.synced[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    io.open = opened  # type: ignore[assignment]
    os.fsync = synced  # type: ignore[assignment]
    sys.addaudithook(_audited)


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and isinstance(path, str | bytes | os.PathLike):
            _operation("open", _absolute(path))
    elif event in _AUDITED:
        relative = arguments[-1] if event != "os.link" else -1
        _operation(_AUDITED[event], _absolute(arguments[0], relative))


def _operation(name: str, path: str, descriptor: int = -1) -> None:
    with _state.lock:
        if _state.note(name, path):
            _happen(_state.strike, descriptor, None if descriptor >= 0 else os.path.relpath(path))


def _happen(strike: Strike, descriptor: int, path: str | None = None) -> None:
    if strike.act == "power" and descriptor >= 0:
        _lose(strike, descriptor)
    if strike.act in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[strike.act])
    elif strike.act == "clock":
        now = time.time()
        time.time = lambda: now + _JUMP * (1 if _state.count % 2 else -1)
    else:
        number = getattr(errno, strike.act)
        # as the system does: what is done to an open file names none
        raise OSError(number, os.strerror(number), path)


def _lose(strike: Strike, descriptor: int) -> None:
    """Cut off a part of what was written to a file since the disk had it."""
    found = os.fstat(descriptor)
    kept = min(found.st_size, _state.synced.get(found.st_ino, 0))
    if os.path.isfile(_path(descriptor)):
        os.truncate(_path(descriptor), kept + int((found.st_size - kept) * strike.part))


def _path(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _absolute(path: Any, relative: Any = -1) -> str:
    path = os.fsdecode(path)
    if isinstance(relative, int) and relative >= 0:
        return os.path.join(_path(relative), path)
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
