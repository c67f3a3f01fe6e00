"""Runs of the real command line, each a process."""

from __future__ import annotations

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from faults.strike import Strike, install

PATIENCE = 300.0
_MODULES = "FAULTS_MODULES"


@dataclass(frozen=True)
class Ended:
    """How a run has ended.

    Attributes:
        status: of the process; minus the signal that ended it.
        said: its standard error.
        operations: on the files of its folder, in order.
        seconds: how long it ran.
    """

    status: int
    said: str
    operations: tuple[str, ...]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was killed, and did not end before that."""
        return self.status == -signal.SIGKILL

    @property
    def went_on_at(self) -> int:
        """The first chunk that it has made."""
        found = re.search(r"going on at second [0-9.]+, chunk (\d+) of", self.said)
        return int(found[1]) if found else 0

    @property
    def errors(self) -> list[str]:
        """The lines that say why something was not done."""
        return [line for line in self.said.splitlines() if line.startswith("error:")]


class Run:
    """One run of `tethercache`, in a folder.

    Args:
        arguments: behind the program's name.
        folder: the current one of the process.
        notes: where its output goes; outside of `folder`.
        strike: what happens to it.
        fresh: start a new interpreter, as a shell does. Else a copy of this process, which has
            imported the libraries, becomes the command: the same, but for the seconds of importing.
        most: bytes of a file that it may write at most.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        notes: Path,
        *,
        strike: Strike | None = None,
        fresh: bool = False,
        most: int | None = None,
    ) -> None:
        self._said, self._trace = notes / "said", notes / "trace"
        self._trace.write_bytes(b"")
        self._began = time.monotonic()
        if fresh:
            assert strike is None
            assert most is None
            with self._said.open("wb") as said:
                self.pid = subprocess.Popen(
                    [sys.executable, "-m", "tethercache", *arguments],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                ).pid
            return
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(arguments, folder, self._said, self._trace, strike or Strike(), most)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def stopped(self) -> bool:
        """Wait until it has stopped, so that it can be continued; False: it has ended."""
        return os.WIFSTOPPED(self._waited(os.WUNTRACED))

    def end(self, after: float | None = None) -> Ended:
        """Wait until it has ended; kill it after so many seconds."""
        status = self._waited(0, after)
        seconds = time.monotonic() - self._began
        said = self._said.read_text(errors="replace")
        operations = tuple(self._trace.read_text(errors="replace").splitlines())
        return Ended(os.waitstatus_to_exitcode(status), said, operations, seconds)

    def _waited(self, options: int, after: float | None = None) -> int:
        if not hasattr(self, "_status") or os.WIFSTOPPED(self._status):
            until = self._began + (PATIENCE if after is None else after)
            while True:
                pid, self._status = os.waitpid(self.pid, options | os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > until:
                    self.signal(signal.SIGKILL)
                    _, self._status = os.waitpid(self.pid, 0)
                    if after is None:
                        raise TimeoutError(f"it ran for {PATIENCE:g} s")
                    break
                time.sleep(0.002)
        return self._status


def preload(folder: Path, arguments: Sequence[str]) -> None:
    """Import what a run imports, so that those that follow need not."""
    modules = folder / "modules"
    os.environ[_MODULES] = str(modules)
    try:
        ended = Run(arguments, folder, folder).end()
    finally:
        del os.environ[_MODULES]
    if ended.status:
        raise RuntimeError(f"the command fails without any fault: {ended.said}")
    for name in modules.read_text().split():
        with suppress(Exception):
            importlib.import_module(name)


def _become(
    arguments: Sequence[str],
    folder: Path,
    said: Path,
    trace: Path,
    strike: Strike,
    most: int | None,
) -> NoReturn:
    """Be the command, in a process that was forked for it."""
    status = 1
    try:
        os.chdir(folder)
        for descriptor, path in enumerate((os.devnull, os.devnull, said)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        traced = os.open(trace, os.O_WRONLY | os.O_APPEND)
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        sys.argv = ["tethercache", *arguments]
        install(strike, folder, traced)
        from tethercache.cli import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            if _MODULES in os.environ:
                Path(os.environ[_MODULES]).write_text("\n".join(sys.modules))
            sys.stderr.flush()
        os._exit(status)
