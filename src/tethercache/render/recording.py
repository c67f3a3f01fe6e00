"""A video in the making and its record: both get their names, the record first, or neither does.

What is on disk, in this order:

    NAME.partial.mp4   the frames so far, playable, locked by who writes them
    NAME.partial.json  the request, with room for what comes out; at the end the whole record
    NAME.mp4.partial   for a moment: the frames copied to an ordinary mp4, which then takes the
                       place of NAME.partial.mp4
    NAME.json          the record, when the video is complete but for its name
    NAME.mp4           the video

A trace, if one is written, is NAME.partial.trace.jsonl.gz until the record gets its name.

So wherever this breaks off, a video has its record; and one whose frames are all made can be
completed without making them again.

The video is written in segments of a fixed number of chunks. At the borders between them the state
of a recording can be kept, and a recording can go on from it; see `render/durable.py`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

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
from tethercache.models import Settings
from tethercache.state import State
from tethercache.trace.file import TraceWriter, name_trace, trace_path
from tethercache.video.frames import Frames
from tethercache.video.mp4 import DEFAULT_CRF, KEYFRAME_SECONDS, count_frames
from tethercache.video.sidecar import (
    FrameHasher,
    Sidecar,
    SidecarError,
    dump_sidecar,
    read_sidecar,
    sidecar_path,
)
from tethercache.video.target import check_target, partial_path
from tethercache.video.writer import Position, VideoWriter, finish

if TYPE_CHECKING:
    from tethercache.evaluation.verdict import Verdict
    from tethercache.evaluation.watch import DriftWatch

_ROOM_FOR_NOTES = 16 << 10
_ROOM_FOR_A_HASH = 80


@dataclass(frozen=True)
class Segment:
    """How a video is cut into pieces that are encoded independently of each other.

    Attributes:
        chunks: in a segment.
        keyframe_every: frames from one keyframe to the next, in a segment.
    """

    chunks: int
    keyframe_every: int

    @classmethod
    def of(cls, settings: Settings) -> Segment:
        """The fewest chunks that last as long as players expect between two keyframes.

        It depends on the model alone, so that videos of one request are cut in the same places.
        """
        frames, usual = 4 * settings.chunk_size, KEYFRAME_SECONDS * settings.fps
        chunks = -(-usual // frames)
        return cls(chunks, chunks * frames if chunks > 1 else min(frames, usual))


def check_recording(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    trace: bool = False,
) -> Path:
    """Refuse a video path if it, its record or trace cannot be written; see `check_target`."""
    path = check_target(path, overwrite=overwrite, resume=resume)
    check_free(sidecar_path(path), overwrite=overwrite)
    check_free(sidecar_path(partial_path(path)), overwrite=True)
    if trace:
        check_free(trace_path(path), overwrite=overwrite)
        check_free(trace_path(partial_path(path)), overwrite=True)
    return path


class Recording(Completed):
    """Writes a video with a `VideoWriter`, and its record.

    Use it as a context manager. Leaving the block normally gives both their names; an exception
    leaves the playable `NAME.partial.mp4` behind, and beside it the record of what was asked for.

    Attributes:
        record: what is known of the video so far.
        chunks: how many are in the file.
        newest: the latest frame, uint8 `[height, width, 3]`; None before the first.
        segment: how the video is cut.

    Args:
        path: `NAME.mp4`.
        record: what is known before the first frame. What comes out is filled in: hashes of the
            frames, their number, seconds and speed.
        overwrite: replace an existing video and record when the new ones are complete, and what a
            run that broke off has left at once.
        crf: x264's quality.
        watch: is shown the frames; what it finds goes into the record.
        segment: how the video is cut; None: not at all.
        trace: header of its trace, which is written; None: it has none.
        start: what `state_dict` of another recording of this video returned: go on from there, with
            its partial file.

    Raises:
        LostFramesError: the partial file does not hold the frames before `start`.
        LostTraceError: the trace does not hold the chunks before `start`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        record: Sidecar,
        *,
        overwrite: bool = False,
        crf: int = DEFAULT_CRF,
        watch: DriftWatch | None = None,
        segment: Segment | None = None,
        trace: Mapping[str, Any] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self.record = record
        self.chunks = 0
        self.newest: npt.NDArray[np.uint8] | None = None
        self.segment = segment
        self._watch = watch
        self._overwrite = overwrite
        self._started = time.perf_counter()
        self._hasher = FrameHasher()
        going_on, traced = start is not None, trace is not None
        check_recording(path, overwrite=overwrite, resume=going_on, trace=traced)
        self._writer = VideoWriter(
            path,
            fps=record.fps,
            width=record.width,
            height=record.height,
            overwrite=overwrite,
            crf=crf,
            keyframe_every=None if segment is None else segment.keyframe_every,
            start=None if start is None else Position(**start["position"]),
        )
        self.path = self._writer.path
        self._record_path = sidecar_path(self._writer.partial_path)
        self._trace: TraceWriter | None = None
        try:
            if trace is not None:
                there = trace_path(self._writer.partial_path)
                self._trace = TraceWriter(there, trace, start["trace"] if start else None)
            if start is None:
                self._record_path.unlink(missing_ok=True)  # without its video
                self._reserve()
            else:
                self._go_on(start)
        except BaseException:
            self._writer.abandon()
            raise

    def _reserve(self) -> None:
        """Write the record as far as it is known, and take the room on the disk for the rest."""
        self._file: BinaryIO = create(self._record_path)
        try:
            with disk_full_advice(self._record_path, "free some space and run again"):
                write_all(self._file, self._with_room())
        except BaseException:
            self._discard()
            raise

    def _with_room(self) -> bytes:
        room = _ROOM_FOR_A_HASH * len(self.record.chunk_sizes) + _ROOM_FOR_NOTES
        return dump_sidecar(self.record) + b" " * room

    def _go_on(self, start: Mapping[str, Any]) -> None:
        self._record_path.unlink(missing_ok=True)  # snapshots hold what it says
        self._reserve()
        self._load(start)
        self._started = time.perf_counter() - start["seconds"]

    def _load(self, state: Mapping[str, Any]) -> None:
        self.chunks = state["chunks"]
        self._hasher.load_state_dict(state["hashes"])
        if self._watch is not None:
            self._watch.load_state_dict(state["watch"])

    def at_border(self, chunks: int) -> bool:
        """Whether a segment ends after so many chunks."""
        return self.segment is not None and not chunks % self.segment.chunks

    def state_dict(self) -> State:
        """All that has to be remembered where a segment begins; see `tethercache.state`."""
        return {
            "chunks": self.chunks,
            "position": asdict(self._writer.position()),
            "hashes": self._hasher.state_dict(),
            "watch": None if self._watch is None else self._watch.state_dict(),
            "trace": None if self._trace is None else self._trace.position,
            "seconds": time.perf_counter() - self._started,
        }

    def rewind(self, state: Mapping[str, Any]) -> None:
        """Forget what was written since `state_dict` returned this state.

        Raises:
            LostFramesError: the partial file was changed by somebody else.
        """
        self._writer.rewind(Position(**state["position"]))
        if self._trace is not None:
            self._trace.rewind(state["trace"])
        self._load(state)

    def sync(self) -> None:
        """Wait until the disk has all frames that were written."""
        self._writer.sync()
        if self._trace is not None:
            self._trace.sync()

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return self._writer.num_frames

    @property
    def size(self) -> int:
        """Bytes in the partial file, up to the last whole chunk."""
        return self._writer.size

    def note(self, **settings: Any) -> None:
        """Add to the settings in the record."""
        merged = {**self.record.settings, **settings}
        self.record = dataclasses.replace(self.record, settings=merged)

    def write(self, frames: Frames, trace: Mapping[str, Any] | None = None) -> None:
        """Append a chunk; see `VideoWriter.write`.

        Args:
            frames: uint8 RGB `[F, height, width, 3]`.
            trace: what the cache did in it, where that is written.
        """
        if self.chunks and self.at_border(self.chunks):
            self._writer.begin_segment()
        self._writer.write(frames)
        self.chunks += 1
        self.newest = np.asarray(frames)[-1]
        digest = self._hasher.update(frames)
        if self._trace is not None and trace is not None:
            self._trace.write({**trace, "sha256": digest})
        if self._watch is not None:
            self._watch.update(np.asarray(frames))

    @property
    def drift(self) -> str:
        """One short text about the drift so far; empty without a watch and in the first seconds."""
        return "" if self._watch is None else self._watch.status()

    @property
    def drift_now(self) -> dict[str, Any] | None:
        """The drift so far, see `DriftWatch.now`; None without a watch."""
        return None if self._watch is None else self._watch.now()

    @property
    def seconds(self) -> float:
        """Length of the video so far."""
        return float(self.num_frames / self.record.fps)

    def judge(self, without: Collection[str] = ()) -> Verdict | None:
        """What the watch finds so far, by all metrics but some.

        None without a watch, or while it is too early to tell.
        """
        return None if self._watch is None else self._watch.judge(without)

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
        if self._trace is not None:
            self._trace.sync()
            self._trace.close()
        self._writer.close(before_naming=self._name)

    def _name(self) -> None:
        if self._trace is None and self._overwrite:
            trace_path(self.path).unlink(missing_ok=True)  # that of the video before
        _name_record(self.path, self._overwrite)

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
        if self._trace is not None:
            self._trace.discard()
            self._trace = None

    def abandon(self) -> None:
        """Leave what is there; of a video without frames, nothing."""
        if not self.num_frames:
            self._discard()
        self._file.close()
        if self._trace is not None:
            self._trace.close()
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
    """Rename trace and record of a partial video; it may have happened already."""
    name_trace(partial_path(path), path, overwrite=overwrite)
    record = sidecar_path(partial_path(path))
    if record.exists():
        check_free(sidecar_path(path), overwrite=overwrite)
        record.replace(sidecar_path(path))
