"""The decode that a stream must equal: all latents at once, by the VAE itself."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor


@torch.no_grad()
def whole_decode(
    vae: AutoencoderKLWan, latents: Tensor, tile: tuple[int, int, int, int] | None = None
) -> Tensor:
    """Decode normalised latents `[B, C, F, h, w]` to `[B, 3, 4 F - 3, H, W]`.

    `tile` is height, width, stride of height and stride of width, in pixels.
    """
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    z = (latents * std + mean).to(vae.dtype)
    if tile is None:
        return vae.decode(z).sample.float()
    vae.enable_tiling(*tile)
    try:
        return vae.decode(z).sample.float()
    finally:
        vae.disable_tiling()
