"""What the server knows of its videos, on disk: the queue, what is made, what was said of chunks.

One SQLite file in the server's folder. Whatever a call has written is there after `kill -9` and
after a power cut. All methods may be called from any thread.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tethercache.request import VideoRequest

NAME = "queue.sqlite3"
VERSION = 1
_SCHEMA = """
CREATE TABLE videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    live INTEGER NOT NULL,
    created_at REAL NOT NULL,
    completed_at REAL,
    request TEXT NOT NULL,
    parent TEXT,
    parent_at REAL,
    remixed TEXT,
    known TEXT NOT NULL,
    error TEXT,
    tries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX by_status ON videos (status, live, number);
CREATE INDEX by_parent ON videos (parent);
CREATE TABLE chunks (
    video TEXT NOT NULL,
    number INTEGER NOT NULL,
    said TEXT NOT NULL,
    PRIMARY KEY (video, number)
) WITHOUT ROWID;
"""


class Status(StrEnum):
    """Where a video is."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"
    """Its files are still to be removed; nobody is told of it any more."""


@dataclass(frozen=True)
class Video:
    """A video of the server.

    Attributes:
        id: `video_` and 32 hexadecimal digits; its files are called so.
        status: where it is.
        live: whether a live session has begun it: it does not wait behind jobs.
        created_at: seconds since 1970.
        completed_at: the same; None: it is not over.
        request: what is asked, with all that was changed on the way.
        parent: the video that it is a branch of; None: it is none.
        parent_at: the second at which it leaves that.
        remixed: the video whose request this one repeats with another prompt.
        known: what the worker has said of it last: `frames_made`, `chunks_made`, `bytes`, `epoch`,
            `num_frames`, `num_chunks`, `changes`, `verdict`, ...
        error: `code` and `message`, of a failed one.
        tries: how many workers have died over it since its latest chunk.
        number: rises with every video.
    """

    id: str
    status: Status
    live: bool
    created_at: float
    completed_at: float | None
    request: VideoRequest
    parent: str | None
    parent_at: float | None
    remixed: str | None
    known: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] | None = None
    tries: int = 0
    number: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in (Status.COMPLETED, Status.FAILED, Status.DELETED)

    def path(self, folder: Path) -> Path:
        """Where it is, `NAME.mp4`."""
        return folder / f"{self.id}.mp4"


class FullQueueError(RuntimeError):
    """So many videos wait that no more are taken."""


class Desk:
    """The videos of one folder.

    Args:
        folder: it is made if it is not there.
        most: how many may wait.

    Raises:
        ValueError: the file there is of another version.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, most: int = 20_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.most = most
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / NAME, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not found:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif found != VERSION:
            raise ValueError(f"{folder / NAME} is of version {found}, but this knows {VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def add(
        self,
        request: VideoRequest,
        *,
        live: bool = False,
        parent: tuple[str, float] | None = None,
        remixed: str | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> Video:
        """Queue a video; it is on the disk when this returns.

        Raises:
            FullQueueError: too many wait.
        """
        name, now = f"video_{secrets.token_hex(16)}", time.time()
        at, asked = parent or (None, None), _json(request.to_dict())
        with self._lock, self._db:
            if self._count(Status.QUEUED) >= self.most:
                raise FullQueueError(f"{self.most} videos wait already")
            self._db.execute(
                "INSERT INTO videos (id, status, live, created_at, request, parent, parent_at,"
                " remixed, known) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (name, Status.QUEUED, live, now, asked, *at, remixed, _json(known or {})),
            )
        return self.get(name)

    def get(self, name: str) -> Video:
        """A video by its id.

        Raises:
            KeyError: there is none.
        """
        rows = self._rows("WHERE id = ? AND status != ?", (name, Status.DELETED))
        if not rows:
            raise KeyError(name)
        return rows[0]

    def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        ascending: bool = False,
        status: str | None = None,
        parent: str | None = None,
    ) -> tuple[list[Video], bool]:
        """Some videos in the order in which they were asked for, and whether there are more.

        Raises:
            KeyError: there is no video `after`.
        """
        clauses, values = ["status != ?"], [Status.DELETED.value]
        if after is not None:
            clauses.append(f"number {'>' if ascending else '<'} ?")
            values.append(str(self.get(after).number))
        for column, value in (("status", status), ("parent", parent)):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        order = "ASC" if ascending else "DESC"
        rows = self._rows(
            f"WHERE {' AND '.join(clauses)} ORDER BY number {order} LIMIT ?", (*values, limit + 1)
        )
        return rows[:limit], len(rows) > limit

    def branches(self, name: str) -> list[str]:
        """The ids of a video's branches, in the order in which they were asked for."""
        sql = "SELECT id FROM videos WHERE parent = ? AND status != ? ORDER BY number"
        with self._lock:
            return [row[0] for row in self._db.execute(sql, (name, Status.DELETED))]

    def waiting(self, *, live: bool, limit: int) -> list[Video]:
        """The next videos to make, the first one first."""
        where = "WHERE status = ? AND live = ? ORDER BY number LIMIT ?"
        return self._rows(where, (Status.QUEUED, live, limit))

    def having(self, status: Status) -> list[Video]:
        """All videos of a status of which there are few: in progress, deleted."""
        return self._rows("WHERE status = ? ORDER BY number", (status,))

    def position(self, video: Video) -> int | None:
        """How many videos are made before this one of those that wait; None: it does not."""
        if video.status is not Status.QUEUED:
            return None
        sql = "SELECT COUNT(*) FROM videos WHERE status = ? AND live = ? AND number < ?"
        with self._lock:
            row = self._db.execute(sql, (Status.QUEUED, video.live, video.number)).fetchone()
        return int(row[0])

    def counts(self) -> dict[str, int]:
        """How many videos there are of each status."""
        sql = "SELECT status, COUNT(*) FROM videos GROUP BY status"
        with self._lock:
            found = {status: number for status, number in self._db.execute(sql)}
        return {status.value: found.get(status, 0) for status in Status if status != "deleted"}

    def _count(self, status: Status) -> int:
        sql = "SELECT COUNT(*) FROM videos WHERE status = ?"
        return int(self._db.execute(sql, (status,)).fetchone()[0])

    # What becomes of them

    def begin(self, name: str) -> None:
        """It is being made."""
        self._update(name, status=Status.IN_PROGRESS)

    def blame(self, name: str) -> None:
        """A worker has died while it made this."""
        with self._lock, self._db:
            self._db.execute("UPDATE videos SET tries = tries + 1 WHERE id = ?", (name,))

    def know(
        self, name: str, known: Mapping[str, Any], request: VideoRequest | None = None
    ) -> None:
        """Something of a video is another now: add to `known`, or replace the request."""
        with self._lock, self._db:
            row = self._db.execute("SELECT known FROM videos WHERE id = ?", (name,)).fetchone()
            if row is not None:
                changed = {"known": _json({**json.loads(row[0]), **known})}
                if request is not None:
                    changed["request"] = _json(request.to_dict())
                self._set(name, changed)

    def add_chunk(self, name: str, number: int, said: Mapping[str, Any], **known: Any) -> None:
        """A chunk is made: keep what was said of it, and what is `known` of the video now."""
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", (name, number, _json(said))
            )
            self._set(name, {"tries": 0})
            self.know(name, known)

    def cut_chunks(self, name: str, number: int) -> None:
        """Forget what was said of chunks from a number on: they are made anew."""
        with self._lock, self._db:
            sql = "DELETE FROM chunks WHERE video = ? AND number >= ?"
            self._db.execute(sql, (name, number))

    def chunks(self, name: str, start: int, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """What was said of chunks from `start` on, and whether there are more than `limit`."""
        sql = "SELECT said FROM chunks WHERE video = ? AND number >= ? ORDER BY number LIMIT ?"
        with self._lock:
            rows = self._db.execute(sql, (name, start, limit + 1)).fetchall()
        return [json.loads(row[0]) for row in rows[:limit]], len(rows) > limit

    def end(self, name: str, error: Mapping[str, str] | None = None, **known: Any) -> None:
        """It is complete, or has failed with an error."""
        self.know(name, known)
        status = Status.FAILED if error else Status.COMPLETED
        said = None if error is None else _json(error)
        self._update(name, status=status, error=said, completed_at=time.time())

    def delete(self, name: str) -> None:
        """Nobody is told of it any more; `purge` when its files are gone."""
        self._update(name, status=Status.DELETED)

    def purge(self, names: Iterable[str]) -> None:
        """Forget videos."""
        with self._lock, self._db:
            for name in names:
                self._db.execute("DELETE FROM chunks WHERE video = ?", (name,))
                self._db.execute("DELETE FROM videos WHERE id = ?", (name,))

    def _update(self, name: str, **values: Any) -> None:
        with self._lock, self._db:
            self._set(name, values)

    def _set(self, name: str, values: Mapping[str, Any]) -> None:
        """Set columns, unless the video is deleted."""
        columns = ", ".join(f"{column} = ?" for column in values)
        sql = f"UPDATE videos SET {columns} WHERE id = ? AND status != ?"
        self._db.execute(sql, (*values.values(), name, Status.DELETED))

    def _rows(self, where: str, values: tuple[Any, ...]) -> list[Video]:
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM videos {where}", values).fetchall()
        return [_video(row) for row in rows]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _video(row: sqlite3.Row) -> Video:
    values = dict(row)
    error = values.pop("error")
    return Video(
        **{
            **values,
            "status": Status(values["status"]),
            "live": bool(values["live"]),
            "request": VideoRequest.from_dict(json.loads(values["request"])),
            "known": json.loads(values["known"]),
            "error": None if error is None else json.loads(error),
        }
    )
