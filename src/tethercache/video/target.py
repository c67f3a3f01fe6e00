"""Where a video goes: its names, and what may stand in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

import av

from tethercache.arguments import as_path
from tethercache.files import check_free, lock, open_existing, remove_open
from tethercache.video.mp4 import count_frames


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where the video `NAME.mp4` is written until it is complete: `NAME.partial.mp4`."""
    return as_path("path", path).with_suffix(".partial.mp4")


def check_target(
    path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool = False
) -> Path:
    """Refuse a video path that cannot be written, before any work is done.

    Args:
        path: `NAME.mp4`.
        overwrite: replace an existing file and a partial one.
        resume: go on with a partial file.

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
    check_partial(partial_path(path), overwrite or resume)
    return path


def check_partial(path: Path, overwrite: bool, *, remove: bool = False) -> None:
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
            message = (
                "an unfinished video is here; go on with it by --resume, or replace it by "
                "--overwrite"
            )
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
