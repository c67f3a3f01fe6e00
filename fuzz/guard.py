"""What no input may do: run code, write elsewhere, call out, take much memory."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "EXECUTED"
"""A file that payloads make, in the current folder."""

MOST_MEMORY = 1 << 30
"""Bytes by which an input may raise the memory of its process."""

_HARD = 4 << 30  # of address space, so that a bomb does not end the machine
_CODE = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
    "ctypes.dlopen",
}
_WRITING = os.O_WRONLY | os.O_RDWR


class Guard:
    """Watches this process, through Python's audit events, while an input is taken."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._folder: str | None = None
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in the block; the current folder is the one in which files may be written."""
        self.seen.clear()
        self._folder = os.path.realpath(".") + os.sep
        try:
            yield
        finally:
            folder, self._folder = self._folder, None
            if folder is not None and os.path.lexists(folder + MARK):
                self.seen.append("made its mark")
                os.unlink(folder + MARK)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        folder = self._folder
        if folder is None:
            return
        if event in _CODE:
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "open":
            self._opened(folder, *arguments)
        elif event == "exec" and self._is_inside(folder, arguments[0].co_filename):
            self.seen.append(f"executed {arguments[0].co_filename}")

    def _opened(self, folder: str, path: Any, mode: Any, flags: int) -> None:
        if not isinstance(path, str | bytes) or not flags & _WRITING:
            return
        real = os.path.realpath(os.fsdecode(path))
        allowed = (folder, "/dev/", f"/proc/{os.getpid()}/")  # which is where /proc/self leads
        if not real.startswith(allowed):
            self.seen.append(f"opened {real} for writing")

    @staticmethod
    def _is_inside(folder: str, name: Any) -> bool:
        # <string>: code that libraries make for their own classes
        is_file = isinstance(name, str) and not name.startswith("<")
        return is_file and os.path.abspath(name).startswith(folder)


def limit_memory() -> None:
    """Let no allocation of this process go far beyond what an input may take."""
    size = _status("VmSize") + _HARD
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_HARD, _HARD))


class Peak:
    """The most memory that was added since it was made, in bytes."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def read(self) -> int:
        """How many they are by now."""
        return max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {name}")
