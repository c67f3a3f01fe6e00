"""The server's side of the worker process: gives it videos, and writes down what it says.

When the worker dies another is started, which goes on with what was unfinished.

    workshop.wake()                              there is something in the queue
    workshop.ask(video, "prompt", text=...)      a command for a video that is being made
    with workshop.listening(video, hear): ...    `hear` is told every message about it

Messages are those of `worker`; they reach a listener after the desk has them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from tethercache.render.snapshots import snapshot_folder
from tethercache.serve.desk import Desk, Status, Video
from tethercache.trace.file import trace_path
from tethercache.video.sidecar import sidecar_path
from tethercache.video.target import partial_path

logger = logging.getLogger(__name__)

Hear = Callable[[Mapping[str, Any]], None]

MOST_TRIES = 3
"""How often workers may die over a video, without a chunk in between, before it is given up."""

_PAUSE = 1.0  # seconds before another worker is started
_LONGEST_PAUSE = 60.0
_PATIENCE = 10.0  # seconds for a worker to end


class State(StrEnum):
    """How the worker is."""

    LOADING = "loading"
    READY = "ok"
    GONE = "gone"


@dataclass
class Active:
    """A video that is being made.

    Attributes:
        live: in which of the two lanes.
        file: the growing file, which stays readable here while the worker gives it another shape.
        size: bytes of it that are whole.
        epoch: how often it was taken back.
        mime: what is in it.
    """

    live: bool
    file: BinaryIO | None = None
    size: int = 0
    epoch: int = 0
    mime: str = ""


@dataclass(frozen=True)
class Growing:
    """A view of a growing file.

    Attributes:
        descriptor: to read it by; close it.
        size: bytes that are whole.
        epoch: how often it was taken back.
        mime: what is in it.
    """

    descriptor: int
    size: int
    epoch: int
    mime: str


@dataclass
class Totals:
    """What was made since the server began, for `/metrics`."""

    chunks: int = 0
    frames: int = 0
    seconds: float = 0.0
    workers: int = 0
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Workshop:
    """Has videos made by one worker process.

    Args:
        desk: the videos.
        model: what the worker loads first.
        active: how many are made in turn; as many live ones again.

    Attributes:
        state: how the worker is.
        about: what it has said of itself.
        totals: what was made.
    """

    def __init__(self, desk: Desk, model: str, active: int = 2) -> None:
        self.desk = desk
        self.state = State.LOADING
        self.about: Mapping[str, Any] = {}
        self.totals = Totals()
        self._model = model
        self._most = active
        self._lock = threading.RLock()
        self._active: dict[str, Active] = {}
        self._listeners: dict[str, list[Hear]] = {}
        self._asks = itertools.count(1)
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workshop", daemon=True)

    def start(self) -> None:
        """Start the worker; what is unfinished goes on once its model is loaded."""
        self._remove(self.desk.having(Status.DELETED))
        self._thread.start()

    def close(self) -> None:
        """End the worker; what it has made stays, and another goes on with it."""
        self._closing.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
                _end(self._process)
        self._thread.join(_PATIENCE)

    @property
    def process_id(self) -> int | None:
        """Of the worker."""
        return None if self._process is None else self._process.pid

    # For those who ask

    def wake(self) -> None:
        """Let videos begin that wait, as far as there is room."""
        with self._lock:
            if self.state is not State.READY:
                return
            for live in (True, False):
                busy = sum(active.live == live for active in self._active.values())
                for video in self.desk.waiting(live=live, limit=self._most - busy):
                    self._make(video)

    def stop(self, video: Video) -> None:
        """Let what there is of a video be all of it."""
        self._send({"do": "stop", "video": video.id})

    def delete(self, video: Video) -> None:
        """Stop a video, forget it, and remove its files."""
        self.desk.delete(video.id)
        self._tell(video.id, {"is": "gone", "video": video.id})
        with self._lock:
            if video.id in self._active and self._send({"do": "drop", "video": video.id}):
                return  # the files go when the worker has closed them
        self._remove([video])

    def ask(self, video: str, do: str, **what: Any) -> int:
        """Give a command to a video that is being made; returns its number, which answers have."""
        number = next(self._asks)
        self._send({"do": do, "video": video, "ask": number, **what})
        return number

    @contextmanager
    def listening(self, video: str, hear: Hear) -> Iterator[None]:
        """In the block, `hear` is called with every message about a video, in another thread."""
        with self._lock:
            self._listeners.setdefault(video, []).append(hear)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[video].remove(hear)
                if not self._listeners[video]:
                    del self._listeners[video]

    def growing(self, video: str) -> Growing | None:
        """The file of a video that is being made; None: there is none (yet, or any more)."""
        with self._lock:
            active = self._active.get(video)
            if active is None or active.file is None:
                return None
            descriptor = os.dup(active.file.fileno())
            return Growing(descriptor, active.size, active.epoch, active.mime)

    # The worker

    def _run(self) -> None:
        """Keep a worker at work until the end."""
        pause = _PAUSE
        while not self._closing.is_set():
            began = time.monotonic()
            self._start()
            try:
                self._listen()
            except Exception:
                logger.exception("the worker was not understood")
            if self._closing.is_set():
                break
            self._lost()
            pause = _PAUSE if time.monotonic() - began > _LONGEST_PAUSE else 2 * pause
            self._closing.wait(min(pause, _LONGEST_PAUSE))

    def _start(self) -> None:
        """Start a worker, unless the workshop was closed meanwhile."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-P", "-m", "tethercache.serve.worker", str(descriptor)]
            process = subprocess.Popen(
                [*command, str(self.desk.folder.absolute()), self._model],
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
        with self._lock:
            self.state = State.LOADING
            self._process = process
            self._connection = Connection(ours.detach())
            self.totals.workers += 1

    def _listen(self) -> None:
        connection = self._connection
        assert connection is not None
        while True:
            try:
                message = json.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return
            self._heard(message)

    def _lost(self) -> None:
        """The worker is gone: what it was making waits for the next one."""
        assert self._process is not None
        assert self._connection is not None
        _end(self._process)
        with self._lock:
            self.state = State.GONE
            self._connection.close()
            self._connection = None
            for name in list(self._active):
                self.desk.blame(name)
                self._release(name)
        logger.warning("the worker has ended (%s)", self._process.returncode)
        self._remove(self.desk.having(Status.DELETED))

    def _send(self, message: Mapping[str, Any]) -> bool:
        with self._lock:
            if self._connection is None:
                return False
            try:
                self._connection.send_bytes(json.dumps(message).encode())
            except OSError:
                return False  # the next worker begins with what the desk has
            return True

    def _make(self, video: Video) -> None:
        self.desk.begin(video.id)
        epoch = video.known.get("epoch", 0)
        self._active[video.id] = Active(video.live, epoch=epoch)
        request = video.request.to_dict()
        self._send({"do": "make", "video": video.id, "request": request, "epoch": epoch})

    def _go_on(self) -> None:
        """Give the worker what one before has left."""
        for video in self.desk.having(Status.IN_PROGRESS):
            if video.tries >= MOST_TRIES:
                message = f"the worker has died {video.tries} times while it made this"
                self._ended(video.id, {"code": "worker_died", "message": message}, {})
            else:
                self._make(video)

    def _heard(self, message: dict[str, Any]) -> None:
        """Write down what the worker says, then tell those who listen."""
        kind, name = message["is"], message.get("video", "")
        facts = {key: value for key, value in message.items() if key not in ("is", "video")}
        if kind == "ready":
            with self._lock:
                self.state, self.about = State.READY, facts
                self._go_on()
        elif kind == "begun":
            self._begun(name, facts)
        elif kind == "chunk":
            self._chunk(name, **facts)
        elif kind == "rewound":
            self._rewound(name, facts)
        elif kind in ("paused", "resumed"):
            self.desk.know(name, {"paused": kind == "paused"})
        elif kind == "ended":
            self._ended(name, facts.pop("error"), facts)
        elif kind == "dropped":
            with self._lock:
                self._release(name)
            self._remove([video for video in self.desk.having(Status.DELETED) if video.id == name])
        if name:
            self._tell(name, message)
        if kind in ("ready", "ended", "dropped"):
            self.wake()

    def _begun(self, name: str, facts: dict[str, Any]) -> None:
        self.desk.cut_chunks(name, facts["chunks_made"])
        self.desk.know(name, facts)
        with self._lock, suppress(FileNotFoundError, KeyError):
            active = self._active[name]
            active.mime, active.epoch, active.size = facts["mime"], facts["epoch"], facts["bytes"]
            active.file = partial_path(self.desk.folder / f"{name}.mp4").open("rb")

    def _chunk(self, name: str, chunk: dict[str, Any], **known: Any) -> None:
        self.desk.add_chunk(name, chunk["index"], chunk, **known)
        self._resize(name, known["bytes"], chunk["epoch"])
        self.totals.chunks += 1
        self.totals.frames += chunk["stop"] - chunk["start"]
        self.totals.seconds += chunk["wall"]

    def _rewound(self, name: str, facts: dict[str, Any]) -> None:
        self._resize(name, facts["bytes"], facts["epoch"])
        self.desk.cut_chunks(name, facts["chunks_made"])
        self.desk.know(name, {key: facts[key] for key in facts if key not in ("why", "second")})

    def _resize(self, name: str, size: int, epoch: int) -> None:
        with self._lock:
            if name in self._active:
                self._active[name].size, self._active[name].epoch = size, epoch

    def _ended(self, name: str, error: Mapping[str, str] | None, known: dict[str, Any]) -> None:
        self.desk.end(name, error, **known)
        self.totals.ended["failed" if error else "completed"] += 1
        with self._lock:
            self._release(name)

    def _release(self, name: str) -> None:
        active = self._active.pop(name, None)
        if active is not None and active.file is not None:
            active.file.close()

    def _tell(self, name: str, message: Mapping[str, Any]) -> None:
        with self._lock:
            listeners = list(self._listeners.get(name, ()))
        for hear in listeners:
            hear(message)

    def _remove(self, videos: list[Video]) -> None:
        """Remove the files of deleted videos, then the videos."""
        for video in videos:
            path = video.path(self.desk.folder)
            both = (path, partial_path(path))
            files = [*both, *map(sidecar_path, both), *map(trace_path, both)]
            for file in (*files, path.with_name(f"{path.name}.partial")):
                file.unlink(missing_ok=True)
            shutil.rmtree(snapshot_folder(path), ignore_errors=True)
        self.desk.purge(video.id for video in videos)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has lost its socket; end it if it does not end."""
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
