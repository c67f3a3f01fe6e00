"""Frames to an H.264 mp4 that plays while it grows, and is an ordinary one in the end.

A chunk of frames is encoded without any delay, becomes one fragment of the partial file and is
handed to the operating system before `write` returns. So the partial file plays up to its last
chunk whatever happens to the process. When the last chunk is in it, it is copied to an ordinary mp4
with its index in front, without encoding anything again, and that takes the partial file's place
and then the final name. So nothing but a complete video ever stands under the final name, and a
partial file that was complete stays so, wherever this breaks off.

The partial file is locked while it is written, so that two runs cannot share it; and what a run
that broke off has left in it is replaced only if the caller says so.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av

from tethercache.arguments import as_path, positive, whole_number
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
from tethercache.video.mp4 import DEFAULT_CRF, FragmentEncoder, count_frames, remux

_FULL = (
    "the video is not complete; free some space and run again with `overwrite`, "
    "or choose another folder"
)
_FULL_AT_THE_END = (
    "all frames are in this file, but there is no room to copy it to an ordinary mp4; "
    "free some space and run the same command again"
)


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where the video `NAME.mp4` is written until it is complete: `NAME.partial.mp4`."""
    return as_path("path", path).with_suffix(".partial.mp4")


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Refuse a video path that cannot be written, before any work is done.

    Raises:
        ValueError: the name does not end in `.mp4` or is too long.
        FileExistsError: another run is writing this video; or the file exists, or its partial file
            with frames in it, and `overwrite` is false; or one of them is no ordinary file.
        OSError: the folder is missing, is no folder or cannot be written.
    """
    path = as_path("path", path)
    if path.suffix != ".mp4":
        raise ValueError(f"`path` must end in .mp4, got {str(path)!r}")
    folder = path.parent
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "no such folder; create it first", str(folder))
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write in this folder", str(folder))
    check_free(path, overwrite=overwrite)
    check_free(partial_path(path), overwrite=True)
    _check_partial(partial_path(path), overwrite)
    return path


def _check_partial(path: Path, overwrite: bool, *, remove: bool = False) -> None:
    """Refuse a partial file that another run is writing, or that an earlier one has left.

    Args:
        path: where it would be.
        overwrite: accept what an earlier run has left; if it holds no frames, it always is.
        remove: delete that, if it is accepted.
    """
    try:
        file = open_existing(path)
    except FileNotFoundError:
        return
    with file:
        lock(file, path)
        if not overwrite and _holds_anything(file):
            message = "an unfinished video is here and `overwrite` is off; move it away to keep it"
            raise FileExistsError(errno.EEXIST, message, str(path))
        if remove:
            remove_open(file, path)


def _holds_anything(file: BinaryIO) -> bool:
    """Whether there are frames in a partial file, or something else that we have not written."""
    if not os.fstat(file.fileno()).st_size:
        return False
    try:
        return count_frames(file) > 0
    except av.FFmpegError:
        return True


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
    ) -> None:
        positive("fps", fps)
        for name, size in (("width", width), ("height", height)):
            if size <= 0 or size % 2:
                raise ValueError(
                    f"`{name}` ({size}) must be even and positive: yuv420p stores one colour "
                    "for each 2x2 pixels"
                )
        whole_number("crf", crf, 1, 51)
        self.path = check_target(path, overwrite=overwrite)
        self.partial_path = partial_path(path)
        self.fps = Fraction(fps)
        if isinstance(fps, float):
            self.fps = self.fps.limit_denominator(1001)
        self.width = width
        self.height = height
        self.num_frames = 0
        self._overwrite = overwrite
        self._complete = False
        self._size = 0  # bytes of the file that are whole boxes
        self._encoder = FragmentEncoder(self.fps, width, height, crf=crf)
        _check_partial(self.partial_path, overwrite, remove=True)
        self._file = create(self.partial_path)
        try:
            lock(self._file, self.partial_path)
            self._append(self._encoder.header)
        except BaseException:
            remove_open(self._file, self.partial_path)
            raise

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
