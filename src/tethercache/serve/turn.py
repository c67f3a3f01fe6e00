"""A video in the worker process: it begins, makes a chunk when it is its turn, and ends.

A live session's commands come in `Turn.obey`, between two chunks; see `worker` for the messages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tethercache.errors import NotEnoughMemoryError, NotFiniteError, TetherCacheError
from tethercache.files import DiskFullError
from tethercache.render.batch import Job, Resume, check_room
from tethercache.render.durable import OtherCircumstancesError
from tethercache.render.held import Held
from tethercache.render.loading import Loaded
from tethercache.render.recording import complete, unnamed
from tethercache.render.snapshots import Snapshots, snapshot_folder
from tethercache.render.steps import Making, Step
from tethercache.request import VideoRequest
from tethercache.text import reason
from tethercache.trace import memory_of
from tethercache.video import Sidecar, read_sidecar

Tell = Callable[..., None]
"""Sends a message to the server: `tell("chunk", video=..., ...)`."""

MIME = 'video/mp4; codecs="avc1.64000A"'

_CODES = (
    (NotFiniteError, "not_finite"),
    (DiskFullError, "disk_full"),
    (NotEnoughMemoryError, "not_enough_memory"),
    (torch.OutOfMemoryError, "not_enough_memory"),
    (MemoryError, "not_enough_memory"),
    (OtherCircumstancesError, "other_circumstances"),
    (ValueError, "invalid_request"),
    (TetherCacheError, "failed"),
)


class Refusal(ValueError):
    """A command that cannot be obeyed; the video goes on.

    Args:
        message: why.
        code: what programs know it by.
        param: the argument that is wrong.
    """

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Turn:
    """A video that takes its turns.

    Args:
        name: its id.
        path: `NAME.mp4`.
        request: what is asked.
        held: the model that makes it.
        epoch: how often frames of it were taken back.
        tell: sends messages to the server.

    Attributes:
        name: its id.
        paused: whether it takes no turns.
        making: the video and its files, once it has begun.
        loaded: the model as this video has it.
        epoch: how often frames of it were taken back.
    """

    def __init__(
        self, name: str, path: Path, request: VideoRequest, held: Held, epoch: int, tell: Tell
    ) -> None:
        self.name = name
        self.path = path
        self.request = request
        self.held = held
        self.epoch = epoch
        self.paused = False
        self.making: Making | None = None
        self.loaded: Loaded | None = None
        self._tell = tell
        self._pace: deque[tuple[float, int]] = deque(maxlen=8)

    def begin(self) -> bool:
        """Begin it, or go on with what a worker before has left; False: it is complete already."""
        if not self.path.exists():
            if unnamed(self.path) is None:
                self._open()
                return True
            complete(self.path)
            Snapshots(snapshot_folder(self.path), budget=self.request.snapshot_bytes).finish()
        self._ended(read_sidecar(self.path))
        return False

    def _open(self) -> None:
        self.loaded = self.held.take(self.request)
        check_room([Job(self.request, self.path)], self.loaded.order)
        making = self.making = self.loaded.begin(self.request, self.path, resume=Resume.YES)
        record = making.recording.record
        self.tell(
            "begun",
            num_frames=record.num_frames,
            num_chunks=len(record.chunk_sizes),
            fps=float(record.fps),
            width=record.width,
            height=record.height,
            policy=record.policy,
            changes=record.settings.get("changes", []),
            mime=MIME,
            **self.so_far(),
        )

    def so_far(self) -> dict[str, Any]:
        """How far it is."""
        assert self.making is not None
        recording = self.making.recording
        return {
            "epoch": self.epoch,
            "chunks_made": recording.chunks,
            "frames_made": recording.num_frames,
            "bytes": recording.size,
        }

    def step(self) -> bool:
        """Make a chunk; False: it was the last one, and the video is complete."""
        assert self.making is not None
        try:
            step = next(self.making)
        except StopIteration:
            self.finish()
            return False
        self._say(step)
        if step.back:
            self.went_back(step.back)
        return True

    def _say(self, step: Step) -> None:
        assert self.making is not None
        recording, now = self.making.recording, time.monotonic()
        self._pace.append((now, step.stop))
        (since, first), (until, last) = self._pace[0], self._pace[-1]
        fps = float(recording.record.fps)
        chunk = {
            "type": "chunk",
            "video": self.name,
            "epoch": self.epoch,
            "index": step.chunk,
            "start": step.start,
            "stop": step.stop,
            "second": step.start / fps,
            "fps": fps,
            "offset": step.offset,
            "bytes": step.end - step.offset,
            "wall": round(step.wall, 4),
            "made_at": round(time.time(), 3),
            "drift": recording.drift_now,
            "memory": None if step.trace is None else memory_of(step.trace),
        }
        speed = round((last - first) / (until - since), 2) if until > since else None
        self.tell(
            "chunk",
            chunk=chunk,
            chunks_made=step.chunk + 1,
            frames_made=step.stop,
            bytes=step.end,
            speed=speed,
        )

    def went_back(self, why: str) -> None:
        """Frames were taken back: what the client has of them is void."""
        self.epoch += 1
        self._pace.clear()
        assert self.making is not None
        recording = self.making.recording
        self.tell("rewound", why=why, second=recording.seconds, **self.so_far())

    def obey(self, command: Mapping[str, Any]) -> None:
        """Do what a live session asks for, between two chunks.

        Raises:
            Refusal: it cannot be done; the video goes on.
        """
        if command["do"] in ("pause", "resume"):
            self.paused = command["do"] == "pause"
            self.tell("paused" if self.paused else "resumed")
            return
        raise Refusal(f"`{command['do']}` is not known", "unknown_type")

    def finish(self) -> None:
        """Complete it, as far as it is made."""
        making, self.making = self.making, None
        assert making is not None
        making.close()
        self._ended(making.recording.record)

    def abandon(self) -> None:
        """Leave its files as they are."""
        making, self.making = self.making, None
        if making is not None:
            making.abandon()

    def _ended(self, record: Sidecar) -> None:
        drift = record.settings.get("drift") or {}
        self.tell(
            "ended",
            error=None,
            num_frames=record.num_frames,
            frames_made=record.num_frames,
            num_chunks=len(record.chunk_sizes),
            chunks_made=len(record.chunk_sizes),
            fps=float(record.fps),
            width=record.width,
            height=record.height,
            policy=record.policy,
            changes=record.settings.get("changes", []),
            bytes=self.path.stat().st_size,
            frames_hash=record.frames_hash,
            verdict=drift.get("verdict"),
            wall_seconds=round(record.wall_seconds, 3),
        )

    def failed(self, error: Exception) -> None:
        """Tell why it failed; what is made of it stays."""
        self.tell("ended", error=describe(error, self.path.parent))

    def tell(self, what: str, **facts: Any) -> None:
        """Send a message about this video."""
        self._tell(what, video=self.name, **facts)


def describe(error: Exception, folder: Path) -> dict[str, str]:
    """Code and message of an error for a client, who shall not know where the files are."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "failed")
    said = reason(error).replace(f"{folder}/", "")
    if not isinstance(error, ValueError | TetherCacheError | OSError):
        said = f"{type(error).__name__}: {said}"
    return {"code": code, "message": said}
