"""Frames on their way into a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = "npt.NDArray[np.uint8] | Tensor"
"""uint8 RGB frames `[F, H, W, 3]`: a numpy array or a tensor on the CPU."""


def as_frames(frames: Frames) -> npt.NDArray[np.uint8]:
    """Frames as a C-contiguous array, checked to be uint8 `[F, H, W, 3]`."""
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(
            f"`frames` must be uint8 [F, H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(array)
