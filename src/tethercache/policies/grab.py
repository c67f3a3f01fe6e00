"""GRAB, Gated Recall with Attention-Diversity Balancing: which frames to remember.

Source: arXiv 2606.13035, in the form of the official code (`docs/reference.md`, section 4).

Axes: B samples, n candidate frames, H heads, D channels a head. Each function is one equation.
Scores are per sample; nothing is averaged over the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mass(query_mean: Tensor, key_mean: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Share of attention that each candidate frame draws from the clean chunk.

    .. math:: a = \mathrm{softmax}_j\Big(\tfrac{1}{T}\,\mathrm{mean}_{h,q,k}\,
              \langle q_h, k_{jh}\rangle / \sqrt{D}\Big)

    The mean of inner products is the inner product of the means, so no logits are formed: the cost
    is that of two averages (`docs/reference.md`, section 9).

    Args:
        query_mean: mean over the chunk's tokens of the unrotated queries, `[B, H, D]`.
        key_mean: mean over each candidate's tokens of the unrotated keys, `[B, n, H, D]`.
        temperature: softmax temperature, > 0.

    Returns:
        Masses that sum to one, float32 `[B, n]`.
    """
    heads, channels = query_mean.shape[-2:]
    logits: Tensor = (query_mean.float()[:, None] * key_mean.float()).sum(dim=(2, 3))
    logits = logits / (heads * channels**0.5 * max(temperature, 1e-6))
    return logits.softmax(dim=1)


def temporal_diversity(mass: Tensor, frame_index: Tensor) -> Tensor:
    r"""How little a candidate repeats the attended frames near it in time.

    .. math:: d_i = \max\Big(0,\; 1 - \max_{j \ne i} a_j\, e^{-|g_i - g_j| / \sigma}\Big), \qquad
              \sigma = \max\big(1, \tfrac12 (\max g - \min g + 1)\big)

    Args:
        mass: attention masses a `[B, n]`.
        frame_index: global frame indices g, integer `[B, n]`.

    Returns:
        Diversities in [0, 1], float32 `[B, n]`.
    """
    index = frame_index.to(mass.dtype)
    first, last = torch.aminmax(index, dim=1)
    reach = ((last - first + 1) / 2).clamp(min=1.0)[:, None, None]
    distance = (index[:, :, None] - index[:, None, :]).abs_()
    repeated = distance.div_(-reach).exp_().mul_(mass[:, None, :])
    repeated.diagonal(dim1=1, dim2=2).zero_()  # j = i
    return (1 - repeated.amax(dim=2)).clamp(min=0)


def balance(mass: Tensor, diversity: Tensor, alpha: float) -> Tensor:
    r"""The score `a + alpha d` by which frames compete, `[B, n]`."""
    return mass + alpha * diversity


def keep_best(score: Tensor, size: int) -> Tensor:
    """Mark the `size` highest scores of each sample, bool `[B, n]`; all of them if n <= size."""
    best = score.topk(min(size, score.shape[1]), dim=1).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, best, True)
