"""A frame of a video, and the images that several metrics derive from it, each made once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_WORK_PIXELS = 416 * 240  # colour and motion are measured at this size: a quarter of 832x480
_FLOW_MIN = 16  # DIS flow needs room for its patches
LAYOUT_SIZE = (52, 30)
"""Width and height of the layout of a picture."""
SIGNATURE_SIZE = (12, 7)
"""Width and height of the luma that tells whether two moments are the same."""
_LAYOUT_BLUR = 3.0  # pixels of the layout over which brightness and contrast are evened out
_LAYOUT_FLOOR = 2.0  # of 255: below this contrast is noise


class Frame:
    """One decoded frame.

    Args:
        index: number of the frame.
        time: seconds.
        rgb: uint8 `[H, W, 3]`.
        previous: the frame before this one.

    Attributes:
        kept: what metrics of one file share, by a name of their own.
    """

    def __init__(self, index: int, time: float, rgb: Image, previous: Frame | None = None) -> None:
        self.index = index
        self.time = time
        self.rgb = rgb
        self.previous = previous
        self.kept: dict[str, npt.NDArray[np.float64]] = {}

    def forget_previous(self) -> None:
        """Let the frame before go, so that a chain of frames does not fill the memory."""
        self.previous = None

    @cached_property
    def scale(self) -> float:
        """Size of the working images over the size of the frame."""
        height, width = self.rgb.shape[:2]
        return float(min(1.0, (_WORK_PIXELS / (height * width)) ** 0.5))

    @cached_property
    def work(self) -> Image:
        """The frame in working size, uint8 RGB."""
        if self.scale == 1.0:
            return self.rgb
        height, width = self.rgb.shape[:2]
        size = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
        return _bytes(cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA))

    @cached_property
    def luma(self) -> Image:
        """Full size luma `[H, W]`, 0 to 255."""
        return _bytes(cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY))

    @cached_property
    def work_luma(self) -> Image:
        """Luma in working size."""
        return _bytes(cv2.cvtColor(self.work, cv2.COLOR_RGB2GRAY))

    @cached_property
    def layout(self) -> Floats:
        """Small luma of which the local brightness and contrast are evened out."""
        small = cv2.resize(self.work_luma, LAYOUT_SIZE, interpolation=cv2.INTER_AREA)
        centred = small - _blurred(small.astype(np.float32))
        spread = np.sqrt(_blurred(centred * centred))
        return np.asarray(centred / (spread + _LAYOUT_FLOOR), dtype=np.float32)

    @cached_property
    def signature(self) -> Floats:
        """Very small luma, 0 to 255."""
        small = cv2.resize(self.work_luma, SIGNATURE_SIZE, interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.float32)

    @cached_property
    def lab(self) -> Floats:
        """CIE Lab in working size, L from 0 to 100."""
        scaled = self.work.astype(np.float32) / 255
        return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), dtype=np.float32)

    @cached_property
    def hsv(self) -> Image:
        """HSV in working size, hue from 0 to 179."""
        return _bytes(cv2.cvtColor(self.work, cv2.COLOR_RGB2HSV))

    @cached_property
    def difference(self) -> float | None:
        """Mean absolute difference to the frame before over all pixels and channels, 0 to 255."""
        if self.previous is None:
            return None
        return float(cv2.norm(self.previous.rgb, self.rgb, cv2.NORM_L1) / self.rgb.size)

    @cached_property
    def motion(self) -> float | None:
        """Mean optical flow since the frame before, pixels of the full frame."""
        if self.previous is None or min(self.work_luma.shape) < _FLOW_MIN:
            return None
        # OpenCV's annotations do not know that the initial flow may be left out
        estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        flow = estimator.calc(self.previous.work_luma, self.work_luma, None)
        return float(np.hypot(flow[..., 0], flow[..., 1]).mean() / self.scale)


def _blurred(image: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _LAYOUT_BLUR), dtype=np.float32)


def _bytes(image: object) -> Image:
    return np.asarray(image, dtype=np.uint8)
