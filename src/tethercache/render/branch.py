"""Another future of a video: branches, and going back.

A branch at a second is a request of its own: that of its parent, and what changes from there on. So
it needs no state of its parent; a snapshot of it only spares the work of making the frames before
again, which are the parent's, bit for bit. Where none is near, an earlier one does, or the start.
"""

from __future__ import annotations

import itertools
import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tethercache.render.batch import Job
from tethercache.render.durable import recorded
from tethercache.render.record import request_from
from tethercache.render.recording import Segment
from tethercache.render.snapshots import (
    DamagedSnapshotError,
    Snapshot,
    Snapshots,
    snapshot_folder,
)
from tethercache.request import VideoRequest
from tethercache.rollout.plan import first_frame
from tethercache.script import Branch, Change
from tethercache.state import State
from tethercache.trace.file import LostTraceError, copy_start, trace_path
from tethercache.video import Sidecar, VideoWriter, read_sidecar
from tethercache.video.sidecar import SidecarError
from tethercache.video.target import check_target, partial_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Take:
    """A video that is finished, or in the making, or broke off.

    Attributes:
        path: `NAME.mp4`.
        record: what is known of it.
        video: the file that holds its frames so far.
    """

    path: Path
    record: Sidecar
    video: Path

    @classmethod
    def find(cls, path: Path) -> Take:
        """The video of a name, `NAME.mp4`.

        Raises:
            FileNotFoundError: there is none, or none with a record.
            SidecarError: its record is damaged.
        """
        path = final_path(path)
        partial = partial_path(path)
        video = path if path.exists() else partial
        for place in (path, partial) if path.exists() else (partial, path):
            try:
                return cls(path, read_sidecar(place), video)
            except FileNotFoundError:
                continue
            except SidecarError as error:
                damaged = error
                if place == path:
                    raise
                logger.warning("%s", damaged)
        for snapshot in Snapshots(snapshot_folder(path)).whole():
            return cls(path, recorded(snapshot), video)
        message = "there is no such video with a record beside it"
        raise FileNotFoundError(2, message, str(path))

    @property
    def request(self) -> VideoRequest:
        """What was asked for; its paths are those of this machine."""
        return request_from(self.record, self.path.parent)

    def snapshots(self) -> Snapshots:
        """Those that are there."""
        return Snapshots(snapshot_folder(self.path))

    def border(self, second: float) -> Border:
        """The last border between chunks at or before a second.

        Raises:
            ValueError: if the video is not so long.
        """
        record, first = self.record, self._first_frames
        frame = _frames(second, record)
        if not 0 <= frame < record.num_frames:
            length = float(record.num_frames / record.fps)
            raise ValueError(f"second {second:g} must be in the video, which has {length:g} s")
        chunk = bisect_right(first, frame) - 1
        return Border(chunk, first[chunk], float(first[chunk] / record.fps))

    def begins(self, change: Change) -> int:
        """The number of the chunk before which a change takes effect."""
        return bisect_left(self._first_frames, _frames(change.at, self.record))

    @property
    def _first_frames(self) -> list[int]:
        """The first frame of each chunk, and the end of the last one."""
        latents = [0, *accumulate(self.record.chunk_sizes)]
        return [first_frame(number) for number in latents]


@dataclass(frozen=True)
class Border:
    """A place between two chunks.

    Attributes:
        chunk: number of the chunk behind it.
        frame: number of its first frame.
        second: when that is shown.
    """

    chunk: int
    frame: int
    second: float


@dataclass(frozen=True)
class BranchPoint:
    """How a branch will be made.

    Attributes:
        parent: the video that it leaves.
        border: where.
        job: the branch.
        snapshot: the newest whole one of the parent before that; None: there is none.
        state: what that holds.
    """

    parent: Take
    border: Border
    job: Job
    snapshot: Snapshot | None
    state: State | None

    @property
    def replayed(self) -> int:
        """How many chunks before the border have to be made again."""
        return self.border.chunk - (0 if self.snapshot is None else self.snapshot.chunk)

    @property
    def seconds(self) -> float | None:
        """How long that took when they were made; None: not known."""
        record = self.parent.record
        if record.wall_seconds:
            return record.wall_seconds * self.replayed / len(record.chunk_sizes)
        if self.snapshot is not None and self.state is not None:
            spent: float = self.state["recording"]["seconds"]
            return spent * self.replayed / self.snapshot.chunk
        return None

    def describe(self) -> str:
        """What is going to happen, in a sentence."""
        since = "its start"
        if self.snapshot is not None and self.state is not None:
            at = float(self.state["render"]["frames_made"] / self.parent.record.fps)
            since = f"the snapshot at second {at:.2f}"
        took = "" if self.seconds is None else f", which took {self.seconds:.0f} s"
        made_again = f"; {self.replayed} chunks since {since} are made again first{took}"
        return (
            f"from second {self.border.second:.2f} of {self.parent.path.name}, "
            f"chunk {self.border.chunk}{made_again if self.replayed else ''}"
        )


def plan_branch(
    parent: Path,
    second: float,
    path: Path | None = None,
    *,
    text: str | None = None,
    how: str = "soft",
    seed: int | None = None,
    then: Sequence[Change] = (),
    seconds: float | None = None,
) -> BranchPoint:
    """Plan another future of a video.

    Args:
        parent: `NAME.mp4`, finished or not.
        second: where it leaves its parent, rounded down to a border between chunks.
        path: the new video; None: the parent itself, which goes back.
        text: another prompt from there on; None: the parent's.
        how: how the prompt changes, see `Change`.
        seed: of the noise from there on; None: the parent's.
        then: further changes; with another prompt, or with these, those of the parent behind the
            border do not hold.
        seconds: its length; None: the parent's.

    Raises:
        FileNotFoundError: there is no such video.
        ValueError: something does not fit together.
    """
    take = Take.find(parent)
    border = take.border(second)
    request = _changed(take, border, text, how, seed, then)
    if seconds is not None:
        request = replace(request, seconds=seconds, latent_frames=None)
    if path is not None:
        request = replace(request, branch=Branch(str(take.path), border.second))
    snapshot, state = _nearest(take, border)
    return BranchPoint(take, border, Job(request, path or take.path), snapshot, state)


def _changed(
    take: Take,
    border: Border,
    text: str | None,
    how: str,
    seed: int | None,
    then: Sequence[Change],
) -> VideoRequest:
    """The parent's request with another future."""
    request = take.request
    if border.frame == 0:
        changes: dict[str, Any] = {"prompt": text, "seed": seed}
        new = {name: value for name, value in changes.items() if value is not None}
        stays = text is None and not then
        return replace(request, then=request.then if stays else tuple(then), **new)
    before = [change for change in request.then if take.begins(change) < border.chunk]
    behind = [change for change in request.then if take.begins(change) >= border.chunk]
    here = []
    if text is not None or seed is not None:
        here = [Change(border.second, text=text, how=how, seed=seed)]
    stays = text is None and not then
    return replace(request, then=(*before, *here, *(behind if stays else then)))


def _nearest(take: Take, border: Border) -> tuple[Snapshot | None, State | None]:
    """The newest snapshot before a border that can be loaded."""
    for found in take.snapshots().whole():
        if found.chunk <= border.chunk:
            try:
                return found, found.load()
            except DamagedSnapshotError as error:
                logger.warning("%s; trying the one before", error)
    return None, None


def begin_branch(point: BranchPoint, *, overwrite: bool = False) -> None:
    """Lay out the files of a branch as if it had broken off at the snapshot; resume it then.

    Args:
        point: see `plan_branch`.
        overwrite: replace a video that has the name.

    Raises:
        OSError: files cannot be written; see `check_target`.
    """
    path, take = point.job.path, point.parent
    goes_back = path == take.path
    check_target(path, overwrite=overwrite or goes_back, resume=goes_back)
    snapshots = Snapshots(snapshot_folder(path))
    if goes_back and take.video != path:  # it is unfinished: what is too new goes
        snapshots.remove_after(point.border.chunk)
        return
    if point.snapshot is None or point.state is None:
        snapshots.remove()
        return
    start, about = point.state["recording"], point.snapshot.about
    writer = VideoWriter(
        path,
        fps=take.record.fps,
        width=take.record.width,
        height=take.record.height,
        overwrite=True,
        crf=point.job.request.crf,
        keyframe_every=Segment(**about["segment"]).keyframe_every,
    )
    try:
        writer.copy(take.video, start["position"]["num_frames"])
        if start.get("trace") is not None:
            copy_start(trace_path(take.video), trace_path(partial_path(path)), start["trace"])
        if goes_back:
            snapshots.remove_after(point.snapshot.chunk)
        else:
            snapshots.remove()
        recording = {**start, "position": asdict(writer.position())}
        snapshots.adopt(point.snapshot, about, {"recording": recording})
    except LostTraceError as error:
        logger.warning("%s; all is made again", error)
        snapshots.remove()
    finally:
        writer.abandon()


def _frames(second: float, record: Sidecar) -> float:
    """A second in frames; whole where only rounding says otherwise."""
    return round(float(second * record.fps), 6)


def final_path(path: Path) -> Path:
    """`NAME.mp4`, also for what belongs to it: its partial file, its records, its snapshots."""
    stem = path.stem.removesuffix(".partial")
    return path.with_name(f"{stem}.mp4")


def next_take(parent: Path) -> Path:
    """A name for another take of a video that nothing has yet: `NAME-take-2.mp4`, ..."""
    parent = final_path(parent)
    name = re.sub(r"-take-\d+$", "", parent.stem)
    numbers = itertools.count(2)
    names = (parent.with_name(f"{name}-take-{number}.mp4") for number in numbers)
    return next(
        path
        for path in names
        if not (path.exists() or partial_path(path).exists() or snapshot_folder(path).exists())
    )
