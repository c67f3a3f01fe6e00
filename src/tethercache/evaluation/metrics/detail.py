"""Detail: does the picture lose or grow contrast and edges?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Change, Values

_FLAT = 0.05  # added to both sides: a flat picture has no edges to compare
_FEW = 0.02  # added to both sides: nor has it texture


@dataclass(frozen=True)
class Contrast(Change):
    """Change of the standard deviation of luma."""

    def measure(self, frame: Frame) -> float:
        """The spread of luma."""
        return float(frame.luma.std())


@dataclass(frozen=True)
class LogSharpness(Change):
    """Logarithm of the ratio of the mean absolute Laplacian in working size, end to start.

    Its size counts: drifting videos become oversharp as often as blurred. In working size the
    edges of things count and the finest detail does not, which depends on the encoder.
    """

    version: ClassVar[int] = 2

    def measure(self, frame: Frame) -> float:
        """The mean absolute Laplacian of luma."""
        laplacian = cv2.Laplacian(frame.work_luma, cv2.CV_16S)
        return float(cv2.norm(laplacian, cv2.NORM_L1) / frame.work_luma.size)

    def change(self, start: Values, end: Values) -> float:
        """Logarithm of the ratio, end over start."""
        return math.log((float(end.mean()) + _FLAT) / (float(start.mean()) + _FLAT))


@dataclass(frozen=True)
class Texture(Change):
    """Logarithm of the ratio of the share of the picture that is not flat, end to start.

    Blocks of one colour, of an encoder or of a model that lost its detail, are flat inside while
    their borders keep the sharpness up.

    Args:
        flat: largest step to the next pixels, of 255.
    """

    flat: int = 2

    def measure(self, frame: Frame) -> float:
        """The share of pixels that differ from their neighbours."""
        luma = frame.work_luma
        if min(luma.shape) < 2:
            return 0.0
        right = cv2.absdiff(luma[1:, 1:], luma[1:, :-1])
        down = cv2.absdiff(luma[1:, 1:], luma[:-1, 1:])
        return float(np.mean(np.maximum(right, down) > self.flat))

    def change(self, start: Values, end: Values) -> float:
        """Logarithm of the ratio, end over start."""
        return math.log((float(end.mean()) + _FEW) / (float(start.mean()) + _FEW))
