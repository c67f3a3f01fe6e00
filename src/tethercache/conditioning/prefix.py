"""A clip or picture to start from, as clean latents.

Axes: frames `[F, H, W, 3]`; latents `[B, C, F, h, w]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice, repeat
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify
from torch import Tensor

from tethercache.alignment import align
from tethercache.errors import NotFiniteError
from tethercache.video.decode import fetch_weights


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
def encode_frames(vae: Any, frames: Iterable[Tensor]) -> Tensor:
    """Encode frames to the normalised latents that a rollout continues from.

    As many frames as a latent frame has are on the device at a time. The result is that of
    `vae.encode`, to the last bit; the VAE's own `use_tiling` plays no part.

    Args:
        vae: an `AutoencoderKLWan`, which may be offloaded.
        frames: uint8 `[H, W, 3]`, 4 n - 3 of them; a tensor `[F, H, W, 3]` will do.

    Returns:
        The mode of the latents, `[1, C, n, h, w]`, in the dtype and on the device of the VAE.

    Raises:
        NotFiniteError: if the encoder makes NaN or infinity.
    """
    align(vae)
    fetch_weights(vae)
    # what the causal convolutions remember of the frames before
    features = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.encoder.modules())
    left = iter(frames)
    encoded = []
    for size in chain((1,), repeat(4)):
        piece = list(islice(left, size))
        if len(piece) < size:
            break
        pixels = torch.stack(piece).to(vae.device).permute(3, 0, 1, 2)[None]
        scaled = (pixels.float() / 127.5 - 1).to(vae.dtype)
        if vae.config.patch_size is not None:
            scaled = patchify(scaled, vae.config.patch_size)
        encoded.append(vae.encoder(scaled, feat_cache=features, feat_idx=[0]))
    latents, _ = vae.quant_conv(torch.cat(encoded, dim=2)).chunk(2, dim=1)  # mean, log variance
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    normalised: Tensor = ((latents.float() - mean) / std).to(vae.dtype)
    NotFiniteError.check("encoder", "latent frame", normalised, axis=2)
    return normalised
