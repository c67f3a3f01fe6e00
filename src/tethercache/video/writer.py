"""Frames to an H.264 mp4 that plays while it grows, and is an ordinary one in the end.

A chunk of frames is encoded without any delay, becomes one fragment of the partial file and is
handed to the operating system before `write` returns. So the partial file plays up to its last
chunk whatever happens to the process. When the last chunk is in it, it is copied to an ordinary mp4
with its index in front, without encoding anything again, and that takes the partial file's place
and then the final name. So nothing but a complete video ever stands under the final name, and a
partial file that was complete stays so, wherever this breaks off.

A video may be written in segments, each by an encoder of its own. Between two of them lie its
`Position`s: a file that broke off is cut back to one and goes on from there, and ends as the same
bytes as if it had never stopped.

The partial file is locked while it is written, so that two runs cannot share it; and what a run
that broke off has left in it is replaced only if the caller says so.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from tethercache.arguments import positive, whole_number
from tethercache.errors import TetherCacheError
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
from tethercache.video.frames import Frames, as_frames
from tethercache.video.mp4 import DEFAULT_CRF, FragmentEncoder, fragments, remux
from tethercache.video.target import check_partial, check_target, partial_path

_COPIED = 1 << 20  # bytes read at a time
_FULL = (
    "the video is not complete; free some space and run again with `overwrite`, "
    "or choose another folder"
)
_FULL_AT_THE_END = (
    "all frames are in this file, but there is no room to copy it to an ordinary mp4; "
    "free some space and run the same command again"
)


class LostFramesError(TetherCacheError):
    """A partial file does not hold what it held at a `Position`."""


@dataclass(frozen=True)
class Position:
    """A place between two segments of a partial file.

    Attributes:
        num_frames: frames before it.
        size: bytes before it.
        sha256: of these bytes, in hexadecimal.
    """

    num_frames: int
    size: int
    sha256: str


class VideoWriter(Completed):
    """Writes one video, chunk by chunk: H.264, yuv420p, BT.709, mp4.

    Use it as a context manager. Leaving the block normally completes the video and gives it its
    name; an exception leaves the playable `NAME.partial.mp4` behind. The same calls give the same
    bytes, and how frames are cut into chunks changes neither their pixels nor their times.

    Completing takes as much disk again as the frames have taken, for a moment.

    Args:
        path: `NAME.mp4`.
        fps: frames a second; frame i is shown at exactly i / fps. A float stands for the nearest
            fraction with a denominator of at most 1001.
        width: pixels, even.
        height: pixels, even.
        overwrite: replace an existing file when the new one is complete, and what a run that broke
            off has left in the partial file at once.
        crf: x264's quality, 1 (best) to 51; 18 is visually lossless. (0 would be a format that
            few players know.)
        keyframe_every: frames from one keyframe to the next; None: two seconds.
        start: go on from here with the partial file of a run that broke off; what is behind it is
            cut off.

    Raises:
        LostFramesError: the partial file is not as it was at `start`; it is left alone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: Fraction | int | float,
        width: int,
        height: int,
        overwrite: bool = False,
        crf: int = DEFAULT_CRF,
        keyframe_every: int | None = None,
        start: Position | None = None,
    ) -> None:
        positive("fps", fps)
        for name, size in (("width", width), ("height", height)):
            if size <= 0 or size % 2:
                raise ValueError(
                    f"`{name}` ({size}) must be even and positive: yuv420p stores one colour "
                    "for each 2x2 pixels"
                )
        whole_number("crf", crf, 1, 51)
        self.path = check_target(path, overwrite=overwrite, resume=start is not None)
        self.partial_path = partial_path(path)
        self.fps = Fraction(fps)
        if isinstance(fps, float):
            self.fps = self.fps.limit_denominator(1001)
        self.width = width
        self.height = height
        self.num_frames = 0
        self._overwrite = overwrite
        self._crf = crf
        self._keyframe_every = keyframe_every
        self._complete = False
        self._size = 0  # bytes of the file that are whole boxes
        self._digest = hashlib.sha256()  # of these bytes
        self._encoder = self._new_encoder()
        if start is not None:
            self._reopen(start)
            return
        check_partial(self.partial_path, overwrite, remove=True)
        self._file: BinaryIO = create(self.partial_path)
        try:
            lock(self._file, self.partial_path)
            self._append(self._encoder.header)
        except BaseException:
            remove_open(self._file, self.partial_path)
            raise

    def _new_encoder(self) -> FragmentEncoder:
        return FragmentEncoder(
            self.fps,
            self.width,
            self.height,
            crf=self._crf,
            first_frame=self.num_frames,
            keyframe_every=self._keyframe_every,
        )

    def _reopen(self, start: Position) -> None:
        """Open the partial file of a run that broke off, and go on from `start`."""
        try:
            self._file = open_existing(self.partial_path)
        except FileNotFoundError as error:
            raise LostFramesError(f"{self.partial_path} is not there any more") from error
        try:
            lock(self._file, self.partial_path)
            self.rewind(start)
        except BaseException:
            self._encoder.close()
            self._file.close()
            raise

    def copy(self, source: Path, num_frames: int) -> None:
        """Append the first frames of another video of this kind, as they are encoded there.

        Raises:
            ValueError: it has fewer.
        """
        with source.open("rb") as file:
            for frames, fragment in fragments(file, num_frames):
                self._append(fragment)
                self.num_frames += frames
        self.begin_segment()

    def position(self) -> Position:
        """Where the file ends."""
        return Position(self.num_frames, self._size, self._digest.hexdigest())

    @property
    def size(self) -> int:
        """Bytes of the partial file that are whole boxes."""
        return self._size

    def begin_segment(self) -> None:
        """Let another encoder, which knows nothing of the frames so far, go on from here."""
        self._encoder.close()
        self._encoder = self._new_encoder()

    def rewind(self, position: Position) -> None:
        """Cut off what is behind a position, and begin a segment there.

        Raises:
            LostFramesError: the file is not as it was at `position`; it is left alone.
        """
        digest, left = hashlib.sha256(), position.size
        self._file.seek(0)
        while left and (part := self._file.read(min(left, _COPIED))):
            digest.update(part)
            left -= len(part)
        if left or digest.hexdigest() != position.sha256:
            raise LostFramesError(
                f"{self.partial_path} is not what it was when it had {position.num_frames} frames"
            )
        self._file.truncate(position.size)
        self.num_frames, self._size, self._digest = position.num_frames, position.size, digest
        self.begin_segment()

    def sync(self) -> None:
        """Wait until the disk has everything that was written, so that a power cut spares it."""
        os.fsync(self._file.fileno())

    def write(self, frames: Frames) -> None:
        """Append frames; when this returns they are in the file.

        Args:
            frames: uint8 RGB `[F, height, width, 3]`.

        Raises:
            DiskFullError: there is no room; the file holds the chunks before this one.
            FileNotFoundError: the partial file was moved, deleted or replaced meanwhile.
        """
        if self._file.closed:
            raise ValueError(f"the video {self.path} is closed")
        array = as_frames(frames)
        if array.shape[1:3] != (self.height, self.width):
            raise ValueError(
                f"`frames` must be [F, {self.height}, {self.width}, 3], got {list(array.shape)}"
            )
        if not len(array):
            return
        try:
            self._check_place()
            self._append(self._encoder.encode(array))
        except BaseException:  # the encoder is ahead of the file: nothing can follow
            self.abandon()
            raise
        self.num_frames += len(array)

    def _append(self, boxes: bytes) -> None:
        """Hand boxes to the operating system so that the file is whole before and after.

        A large write can stop in the middle, when the process is killed or the disk is full, and
        half a `moof` makes a file unreadable. So the first box, `moof` for a fragment, is called
        `free`, which players skip, until everything is written; its own four letters come last.
        """
        with disk_full_advice(self.partial_path, _FULL):
            self._file.seek(self._size)
            write_all(self._file, boxes[:4] + b"free" + boxes[8:])
            self._file.seek(self._size + 4)
            write_all(self._file, boxes[4:8])
        self._size += len(boxes)
        self._digest.update(boxes)

    def _check_place(self) -> None:
        if not is_at(self._file, self.partial_path):
            message = "the file was moved, deleted or replaced while it was written"
            raise FileNotFoundError(errno.ENOENT, message, str(self.partial_path))

    def close(self, before_naming: Callable[[], None] | None = None) -> None:
        """Complete the video and give it its name. Nothing happens if that was done already.

        Args:
            before_naming: is called when the complete video only lacks its name.

        Raises:
            ValueError: no frame was written, or writing has failed before.
            DiskFullError: there is no room for the complete file; `finish` goes on from here.
            FileExistsError: a file took the name meanwhile; the video stays under the partial name.
            FileNotFoundError: the partial file was moved, deleted or replaced meanwhile.
        """
        if self._complete:
            return
        if self._file.closed:
            raise ValueError(f"the video {self.path} broke off; see {self.partial_path}")
        self._encoder.close()
        if not self.num_frames:
            remove_open(self._file, self.partial_path)
            raise ValueError(f"no frame was written to {self.path}")
        with self._file:
            self._check_place()
            _finish(self._file, self.path, self._overwrite, before_naming)
        self._complete = True

    def abandon(self) -> None:
        """Leave the partial file as it is, or none if it is empty; nothing can be written more."""
        self._encoder.close()
        if not self.num_frames and not self._file.closed:
            remove_open(self._file, self.partial_path)
        self._file.close()


def finish(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    before_naming: Callable[[], None] | None = None,
) -> None:
    """Make the partial file of a video, with all frames in it, the complete video.

    For a `VideoWriter` that broke off in its `close`, whose arguments and errors these are.
    """
    partial = partial_path(path)
    with open_existing(partial) as file:
        lock(file, partial)
        _finish(file, Path(path), overwrite, before_naming)


def _finish(
    file: BinaryIO, path: Path, overwrite: bool, before_naming: Callable[[], None] | None
) -> None:
    """Put an ordinary mp4 in the place of the partial file `file`, then give it the name `path`.

    Both are locked, so that nobody else takes their place in between.
    """
    partial = partial_path(path)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.unlink(missing_ok=True)
    with io.BufferedWriter(create(temporary)) as new:
        try:
            with disk_full_advice(partial, _FULL_AT_THE_END):
                os.fsync(file.fileno())
                file.seek(0)
                remux(file, new)
                new.flush()
                os.fsync(new.fileno())
            lock(new, temporary)
            _rename_open(temporary, partial, file, new)
        except BaseException:
            new.raw.close()
            temporary.unlink(missing_ok=True)
            raise
        check_free(path, overwrite=overwrite)
        if before_naming is not None:
            before_naming()
        _rename_open(partial, path, new)


def _rename_open(path: Path, target: Path, *files: BinaryIO) -> None:
    """Rename a file that is open; `files` are its and the target's."""
    try:
        path.replace(target)
    except PermissionError:  # Windows keeps the names of files that are open
        for file in files:
            file.close()
        path.replace(target)
