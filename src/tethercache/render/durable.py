"""A video is made so that nothing of it gets lost: snapshots, and going on from one.

    frames ──> Recording ──> NAME.partial.mp4      in segments of N chunks
       │            │
       └── state at a border between segments ──> Saver ──> NAME.resume/

Where the borders are depends on the request alone; time decides only at which of them a snapshot is
taken. So a video that was interrupted any number of times is the same file as one that was not.

A snapshot fits a request if both agree in everything that decides about the frames before it. It
also says with what it was made: other software or hardware may compute other bits, so going on
with those has to be asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tethercache.errors import TetherCacheError
from tethercache.files import Completed
from tethercache.fit.host import return_free_memory
from tethercache.render.batch import Resume
from tethercache.render.guard import Guard
from tethercache.render.recording import Recording, Segment
from tethercache.render.snapshots import (
    DamagedSnapshotError,
    Snapshot,
    Snapshots,
    snapshot_folder,
)
from tethercache.state import State
from tethercache.trace.file import LostTraceError
from tethercache.video import LostFramesError, Sidecar, read_sidecar
from tethercache.video.sidecar import SidecarError, sidecar_from, sidecar_object
from tethercache.video.target import partial_path

logger = logging.getLogger(__name__)

LEAST_SECONDS = 2.0
"""Between two snapshots, where they cost next to nothing."""

SHARE = 0.02
"""Of the time that snapshots may take."""


class OtherCircumstancesError(TetherCacheError):
    """A snapshot was made with other software or hardware, so that bits may differ."""


class OtherRequestError(ValueError):
    """An unfinished video is of another request."""


class Saver(Completed):
    """Takes snapshots of a video in the making, in a thread of its own.

    Use it as a context manager inside that of the recording.

    Args:
        snapshots: where they go.
        recording: the video's files.
        every: seconds between two of them; 0: one at every border, which is waited for; None: at
            least `LEAST_SECONDS`, and so many that they take a `SHARE` of the time at most.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        recording: Recording,
        every: float | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._recording = recording
        self._every = every
        self._taken = time.monotonic()  # when the latest one was
        self._cost = 0.0  # seconds, of the latest one
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._waiting: Future[None] | None = None
        self._expected: int | None = None
        self._failed = False

    @property
    def idle(self) -> bool:
        """Whether no snapshot is being taken."""
        return self._expected is None and (self._waiting is None or self._waiting.done())

    def wants(self, chunks: int) -> bool:
        """Whether a snapshot shall be taken after so many chunks."""
        is_last = chunks == len(self._recording.record.chunk_sizes)
        if is_last or not self._recording.at_border(chunks):
            return False
        if not (self._snapshots.keep and self.idle):
            return False
        now = time.monotonic()
        every = max(LEAST_SECONDS, self._cost / SHARE) if self._every is None else self._every
        if now - self._taken < every:
            return False
        self._taken, self._expected = now, chunks
        return True

    def take(self, state: State, guard: Guard | None = None) -> None:
        """Write the snapshot, if `wants` has asked for one here, once its frames are in the file.

        Args:
            state: of render and recording.
            guard: whose state belongs to it.
        """
        chunk = self._recording.chunks
        if chunk != self._expected:
            return
        self._expected = None
        whole = {**state, "guard": None if guard is None else guard.state_dict()}
        about_it = about(self._recording.record, self._recording.segment)
        self._waiting = self._thread.submit(self._write, chunk, whole, about_it)
        if self._every == 0:
            self._waiting.result()

    def forget_after(self, chunk: int) -> None:
        """Remove the snapshots of later chunks: the video goes back."""
        self._expected = None
        if self._waiting is not None:
            self._waiting.result()
        self._snapshots.remove_after(chunk)

    def _write(self, chunk: int, state: State, about_it: Mapping[str, Any]) -> None:
        began = time.thread_time()
        try:
            self._recording.sync()
            self._snapshots.write(chunk, state, about_it)
        except OSError as error:
            if not self._failed:
                logger.warning("no snapshot could be written, so a crash loses more: %s", error)
            self._failed = True
        del state
        return_free_memory()  # as much as a snapshot, which would be freed piece by piece
        self._cost = time.thread_time() - began

    def close(self) -> None:
        """Wait for the snapshot that is being written."""
        self._thread.shutdown(wait=True)

    abandon = close


@dataclass(frozen=True)
class Start:
    """Where a video begins.

    Attributes:
        snapshot: where it goes on; None: from nothing.
        state: what the snapshot holds.
        said: what there is to say about it.
    """

    snapshot: Snapshot | None = None
    state: State | None = None
    said: str = ""


def open_recording(
    path: Path, record: Sidecar, resume: Resume, snapshots: Snapshots, **options: Any
) -> tuple[Recording, Start]:
    """Begin the files of a video, or go on with those of a run that broke off.

    Args:
        path: `NAME.mp4`.
        record: of the video, before its first frame.
        resume: whether to go on.
        snapshots: those of this video.
        **options: of `Recording`.

    Raises:
        OtherRequestError: the unfinished video is of another request.
        OtherCircumstancesError: it was made with other software or hardware.
        OSError: the files cannot be written.
    """
    if resume is Resume.NO:
        recording = Recording(path, record, **options)
        snapshots.remove()  # of what has been replaced
        return recording, Start()
    _check_unfinished(path, record)
    reason = "there is no snapshot yet"
    for found in snapshots:
        if isinstance(found, DamagedSnapshotError):
            reason = f"{found}"
            logger.warning("%s; trying the one before", found)
            continue
        if found.chunk >= len(record.chunk_sizes):
            continue
        check_fits(found, record, anyway=resume is Resume.ANYWAY)
        try:
            state = found.load()
            segment = Segment(**found.about["segment"])
            recording = Recording(
                path, record, **{**options, "segment": segment, "start": state["recording"]}
            )
        except (DamagedSnapshotError, LostFramesError, LostTraceError) as error:
            reason = f"{error}"
            logger.warning("%s; trying the one before", error)
            continue
        snapshots.remove_after(found.chunk)
        snapshots.sweep()
        second = float(state["render"]["frames_made"] / record.fps)
        said = f"going on at second {second:.2f}, chunk {found.chunk} of {len(record.chunk_sizes)}"
        return recording, Start(found, state, said)
    recording = Recording(path, record, **{**options, "overwrite": True})
    snapshots.remove()
    return recording, Start(said=f"nothing to resume, beginning anew: {reason}")


def _check_unfinished(path: Path, record: Sidecar) -> None:
    """Refuse to replace an unfinished video of another request, whatever its snapshots say."""
    try:
        found = read_sidecar(partial_path(path))
    except (OSError, SidecarError):
        return
    _check_same(path, found, record, within=0)


def check_fits(snapshot: Snapshot, record: Sidecar, *, anyway: bool) -> None:
    """Refuse a snapshot whose coming frames would not be those of the request.

    Args:
        snapshot: the snapshot.
        record: of the video that shall go on, before its first frame.
        anyway: accept other software and hardware, and warn of it.

    Raises:
        OtherRequestError: it is of another request.
        OtherCircumstancesError: it was made with other software or hardware.
    """
    found = recorded(snapshot)
    _check_same(snapshot.path, found, record, within=snapshot.chunk)
    different = list(circumstances(found, record))
    if different and not anyway:
        raise OtherCircumstancesError(
            f"{snapshot.path} was made under other circumstances, so frames may differ in their "
            f"last bits: {'; '.join(different)}; --resume-anyway goes on"
        )
    if different:
        logger.warning("frames may differ in their last bits: %s", "; ".join(different))


def recorded(snapshot: Snapshot) -> Sidecar:
    """The record in a snapshot.

    Raises:
        DamagedSnapshotError: it holds none.
    """
    try:
        return sidecar_from(snapshot.about["record"])
    except (KeyError, ValueError) as error:
        raise DamagedSnapshotError(f"{snapshot.path} holds no record: {error}") from error


_CIRCUMSTANCES = ("threads", "attention", "compile", "tiles", "text_encoder_device", "cpu")
"""Settings that may change the last bits, and that nobody has to ask for."""

_LATER = ("drift", "guard", "resumed", "changes")
"""Settings that come out, or that are compared by what they change."""


def _check_same(where: Path, found: Sidecar, record: Sidecar, *, within: int) -> None:
    """Refuse a record of another request; `within`: how many chunks both have in common."""
    names = ("prompt", "sample", "seed", "policy", "model_hash", "width", "height", "fps", "dtype")
    different = [name for name in names if getattr(found, name) != getattr(record, name)]
    aside = {*_CIRCUMSTANCES, *_LATER}
    different += [
        name
        for name in sorted({*found.settings, *record.settings} - aside)
        if found.settings.get(name) != record.settings.get(name)
    ]
    if found.request.get("trace", False) != record.request.get("trace", False):
        different.append("whether it has a trace")
    if found.chunk_sizes[:within] != record.chunk_sizes[:within]:
        different.append("the chunks")
    frame = _first_frame(record, within)
    if _changes_before(found, frame) != _changes_before(record, frame):
        different.append("what changes over time")
    if different:
        raise OtherRequestError(
            f"the unfinished video {where} is of another request ({', '.join(different)}); "
            "--overwrite replaces it"
        )


def _first_frame(record: Sidecar, chunk: int) -> int:
    """The first pixel frame of a chunk."""
    latents = sum(record.chunk_sizes[:chunk])
    return 4 * latents - 3 if latents else 0


def _changes_before(record: Sidecar, frame: int) -> list[Any]:
    changes = record.settings.get("changes", [])
    return [change for change in changes if change.get("frame", 0) < frame]


def circumstances(found: Sidecar, record: Sidecar) -> Iterator[str]:
    """Name what differs between two records that is not asked for, but may change the last bits."""
    if found.device != record.device:
        yield f"device {found.device}, here {record.device}"
    for name in sorted({*found.versions, *record.versions}):
        before, here = (record_.versions.get(name) for record_ in (found, record))
        if before != here:
            yield f"{name} {before}, here {here}"
    for name in _CIRCUMSTANCES:
        before, here = (record_.settings.get(name) for record_ in (found, record))
        if before != here:
            yield f"{name} {before}, here {here}"


def about(record: Sidecar, segment: Segment | None) -> dict[str, Any]:
    """What a snapshot says of its video."""
    cut = None if segment is None else asdict(segment)
    return {"record": sidecar_object(record), "segment": cut}


def latest(path: Path) -> Sidecar | None:
    """The record in the newest whole snapshot of a video; None: there is none."""
    for found in Snapshots(snapshot_folder(path)).whole():
        try:
            return recorded(found)
        except DamagedSnapshotError:
            continue
    return None
