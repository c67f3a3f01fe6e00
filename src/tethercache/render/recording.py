"""A video in the making and its record: both get their names, the record first, or neither does.

What is on disk, in this order:

    NAME.partial.mp4   the frames so far, playable, locked by who writes them
    NAME.partial.json  the request, with room for what comes out; at the end the whole record
    NAME.mp4.partial   for a moment: the frames copied to an ordinary mp4, which then takes the
                       place of NAME.partial.mp4
    NAME.json          the record, when the video is complete but for its name
    NAME.mp4           the video

So wherever this breaks off, a video has its record; and one whose frames are all made can be
completed without making them again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from tethercache.files import (
    Completed,
    check_free,
    create,
    disk_full_advice,
    is_at,
    lock,
    open_existing,
    remove_open,
    write_all,
)
from tethercache.video.frames import Frames
from tethercache.video.mp4 import DEFAULT_CRF, count_frames
from tethercache.video.sidecar import (
    FrameHasher,
    Sidecar,
    SidecarError,
    dump_sidecar,
    read_sidecar,
    sidecar_path,
)
from tethercache.video.writer import VideoWriter, check_target, finish, partial_path

if TYPE_CHECKING:
    from tethercache.evaluation.watch import DriftWatch

_ROOM_FOR_NOTES = 16 << 10
_ROOM_FOR_A_HASH = 80


def check_recording(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a video path if the video or its record cannot be written; see `check_target`."""
    path = check_target(path, overwrite=overwrite)
    check_free(sidecar_path(path), overwrite=overwrite)
    check_free(sidecar_path(partial_path(path)), overwrite=True)
    return path


class Recording(Completed):
    """Writes a video with a `VideoWriter`, and its record.

    Use it as a context manager. Leaving the block normally gives both their names; an exception
    leaves the playable `NAME.partial.mp4` behind, and beside it the record of what was asked for.

    Args:
        path: `NAME.mp4`.
        record: what is known before the first frame. What comes out is filled in: hashes of the
            frames, their number, seconds and speed.
        overwrite: replace an existing video and record when the new ones are complete, and what a
            run that broke off has left at once.
        crf: x264's quality.
        watch: is shown the frames; what it finds goes into the record.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        record: Sidecar,
        *,
        overwrite: bool = False,
        crf: int = DEFAULT_CRF,
        watch: DriftWatch | None = None,
    ) -> None:
        self.record = record
        self._watch = watch
        self._overwrite = overwrite
        self._started = time.perf_counter()
        self._hasher = FrameHasher()
        check_recording(path, overwrite=overwrite)
        self._writer = VideoWriter(
            path,
            fps=record.fps,
            width=record.width,
            height=record.height,
            overwrite=overwrite,
            crf=crf,
        )
        self.path = self._writer.path
        self._record_path = sidecar_path(self._writer.partial_path)
        try:
            self._record_path.unlink(missing_ok=True)  # without its video
            self._reserve()
        except BaseException:
            self._writer.abandon()
            raise

    def _reserve(self) -> None:
        """Write the record as far as it is known, and take the room on the disk for the rest."""
        room = _ROOM_FOR_A_HASH * len(self.record.chunk_sizes) + _ROOM_FOR_NOTES
        self._file = create(self._record_path)
        try:
            with disk_full_advice(self._record_path, "free some space and run again"):
                write_all(self._file, dump_sidecar(self.record) + b" " * room)
        except BaseException:
            self._discard()
            raise

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return self._writer.num_frames

    def note(self, **settings: Any) -> None:
        """Add to the settings in the record."""
        merged = {**self.record.settings, **settings}
        self.record = dataclasses.replace(self.record, settings=merged)

    def write(self, frames: Frames) -> None:
        """Append a chunk of frames, uint8 RGB `[F, height, width, 3]`; see `VideoWriter.write`."""
        self._writer.write(frames)
        self._hasher.update(frames)
        if self._watch is not None:
            self._watch.update(np.asarray(frames))

    @property
    def drift(self) -> str:
        """One short text about the drift so far; empty without a watch and in the first seconds."""
        return "" if self._watch is None else self._watch.status()

    def close(self) -> None:
        """Complete record and video and give them their names; see `VideoWriter.close`."""
        seconds = time.perf_counter() - self._started
        if self.num_frames:
            if self._watch is not None:
                self.note(drift=self._watch.summary())
            self.record = dataclasses.replace(
                self.record,
                num_frames=self.num_frames,
                chunk_hashes=self._hasher.chunk_hashes,
                frames_hash=self._hasher.frames_hash,
                wall_seconds=seconds,
                frames_per_second=self.num_frames / seconds,
            )
            self._write_record()
        else:
            self._discard()
        self._writer.close(before_naming=lambda: _name_record(self.path, self._overwrite))

    def _write_record(self) -> None:
        """Put the whole record in the place of what was reserved for it."""
        content = dump_sidecar(self.record)
        with disk_full_advice(self._record_path, "free some space and run again with `overwrite`"):
            if not is_at(self._file, self._record_path):
                self._file.close()
                self._file = create(self._record_path)
            with self._file:
                self._file.seek(0)
                write_all(self._file, content)
                self._file.truncate(len(content))
                os.fsync(self._file.fileno())

    def _discard(self) -> None:
        remove_open(self._file, self._record_path)

    def abandon(self) -> None:
        """Leave what is there; of a video without frames, nothing."""
        if not self.num_frames:
            self._discard()
        self._file.close()
        self._writer.abandon()


def unnamed(path: str | os.PathLike[str]) -> Sidecar | None:
    """The record of a video whose frames are all made, but which has not got its name; or None.

    A video that another run is writing is none yet.
    """
    partial = partial_path(path)
    try:
        with open_existing(partial) as file:
            lock(file, partial)
            num_frames = count_frames(file)
    except (OSError, av.FFmpegError):
        return None
    for candidate in (partial, path):
        try:
            record = read_sidecar(candidate)
        except FileNotFoundError:
            continue
        except (OSError, SidecarError):
            return None
        return record if record.is_complete and record.num_frames == num_frames else None
    return None


def complete(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Give an `unnamed` video and its record their names; see `VideoWriter.close` for errors."""
    finish(path, overwrite=overwrite, before_naming=lambda: _name_record(Path(path), overwrite))


def _name_record(path: Path, overwrite: bool) -> None:
    """Rename the record of a partial video; it may have happened already."""
    record = sidecar_path(partial_path(path))
    if record.exists():
        check_free(sidecar_path(path), overwrite=overwrite)
        record.replace(sidecar_path(path))
