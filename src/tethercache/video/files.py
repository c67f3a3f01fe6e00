"""Files that are either complete or not there, and frames on their way into them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = "npt.NDArray[np.uint8] | Tensor"
"""uint8 RGB frames `[F, H, W, 3]`: a numpy array or a tensor on the CPU."""


class DiskFullError(OSError):
    """The disk, a quota or the largest size of a file was exhausted while writing."""


@contextmanager
def disk_full_advice(path: Path, advice: str) -> Iterator[None]:
    """Turn "no space left" in the block into a `DiskFullError` that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"{os.strerror(error.errno)}: {advice}"
        raise DiskFullError(error.errno, message, str(path)) from error


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that a folder has, or that a file has and `overwrite` is false.

    Raises:
        IsADirectoryError: a folder has it.
        FileExistsError: a file has it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has this name", str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "file exists and `overwrite` is off", str(path))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file beside `path` and rename it, so that `path` is never half written."""
    temporary = path.with_name(f"{path.name}.partial")
    with disk_full_advice(path, "free some space and run again"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def as_frames(frames: Frames) -> npt.NDArray[np.uint8]:
    """Frames as a C-contiguous array, checked to be uint8 `[F, H, W, 3]`."""
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(
            f"`frames` must be uint8 [F, H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(array)
