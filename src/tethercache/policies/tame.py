"""TAME, Trusted Alignment via Memory Editing: pull recalled frames to trusted ones.

Source: arXiv 2606.13035, in the form of the official code (`docs/reference.md`, section 5).

Axes: F frames, T tokens a frame, H heads, D channels a head; leading axes (samples; keys and
values) are kept apart. Statistics are per head and channel, over tokens, biased, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tethercache.cache import FrameStats

STD_FLOOR = 1e-6


def pool(frames: FrameStats) -> FrameStats:
    r"""Statistics of all tokens of several frames, from those of each frame `[..., F, H, D]`.

    .. math:: \mu = \mathrm{mean}_f\, \mu_f, \qquad
              \sigma^2 = \mathrm{mean}_f\, \sigma_f^2 + \mathrm{var}_f\, \mu_f

    Returns:
        Statistics with one frame, `[..., 1, H, D]`.
    """
    mean = frames.mean.mean(dim=-3, keepdim=True)
    spread = (frames.mean - mean).square()
    return FrameStats(mean, (frames.var + spread).mean(dim=-3, keepdim=True))


def align(
    frames: Tensor, own: FrameStats, trusted: FrameStats, tau: float
) -> tuple[Tensor, FrameStats]:
    r"""Blend frames with themselves at the trusted statistics.

    .. math:: x' = (1-\tau)\,x + \tau\Big(\sigma_T \frac{x-\mu_x}{\sigma_x} + \mu_T\Big)
              = \mu' + g\,(x - \mu_x), \qquad
              \mu' = (1-\tau)\,\mu_x + \tau\,\mu_T, \qquad g = (1-\tau) + \tau\,\sigma_T / \sigma_x

    The mean is subtracted first: the form `g x + b` would be imprecise where the frames' own
    deviation is tiny and g huge.

    Args:
        frames: keys (unrotated) or values `[..., F, T, H, D]`.
        own: statistics of each of these frames `[..., F, H, D]`.
        trusted: statistics of the trusted set `[..., 1, H, D]`.
        tau: strength in [0, 1]; 0 returns the frames themselves.

    Returns:
        Edited frames of the same shape and dtype, and their statistics: mean :math:`\mu'`,
        variance :math:`g^2 \sigma_x^2`.
    """
    if tau == 0:
        return frames, own
    gain = (1 - tau) + tau * _std(trusted) / _std(own)
    after = FrameStats(own.mean.lerp(trusted.mean, tau), gain.square() * own.var)
    mean, gain, new_mean = (x.unsqueeze(-3) for x in (own.mean, gain, after.mean))
    return torch.addcmul(new_mean, gain, frames.float() - mean).to(frames.dtype), after


def _std(stats: FrameStats) -> Tensor:
    return stats.var.sqrt().clamp(min=STD_FLOOR)
