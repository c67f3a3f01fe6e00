"""A clip or picture to start from, as clean latents.

Axes: frames `[F, H, W, 3]`; latents `[B, C, F, h, w]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prefix_frames(num_frames: int, chunk_size: int, frames_per_latent: int = 4) -> int:
    """How many of a clip's frames to start from: those that give whole chunks of latent frames.

    Args:
        num_frames: frames of the clip, at least 1.
        chunk_size: latent frames of a chunk.
        frames_per_latent: pixel frames of every latent frame but the first, which is one.

    Returns:
        The largest 4 n - 3 that the clip has, n a multiple of the chunk, or less than one chunk.
    """
    latents = 1 + (num_frames - 1) // frames_per_latent
    if latents > chunk_size:
        latents -= latents % chunk_size
    return 1 + frames_per_latent * (latents - 1)


@torch.no_grad()
def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Encode frames to the normalised latents that a rollout continues from.

    Args:
        vae: an `AutoencoderKLWan`.
        frames: uint8 `[F, H, W, 3]`, F = 4 n - 3.

    Returns:
        The mode of the latents, `[1, C, n, h, w]`, in the dtype and on the device of the VAE.
    """
    pixels = frames.to(vae.device).permute(3, 0, 1, 2)[None]
    scaled = (pixels.float() / 127.5 - 1).to(vae.dtype)
    latents: Tensor = vae.encode(scaled).latent_dist.mode()
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return ((latents.float() - mean) / std).to(vae.dtype)
