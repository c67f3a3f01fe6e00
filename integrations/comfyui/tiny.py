"""Node "TetherCache tiny model": the shipped model as ComfyUI's own MODEL, CLIP and VAE.

With it a workflow runs at once, on a CPU and without a download. It is a causal Wan like the large
ones, but its patches are single cells, for which ComfyUI's sampler would allot too little memory to
keys and values: use it with "TetherCache policy", which allots its own.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from tethercache.models.checkpoints.names import original_name
from tethercache.pipeline import CausalVideoPipeline


class TetherCacheTiny:
    """Load the model that TetherCache ships: 64x64 pixels, coloured shapes before backgrounds."""

    CATEGORY = "TetherCache"
    DESCRIPTION = (
        "The small causal video model that TetherCache ships (64x64 pixels), for trying things on "
        "a CPU. Send MODEL through TetherCache policy, make chunks of 3, and 4 steps of the "
        "scheduler `simple`."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Nothing."""
        return {"required": {}}

    def load(self) -> tuple[Any, Text, Frames]:
        """The parts, as the nodes behind this one know them."""
        import comfy.sd

        pipe = CausalVideoPipeline.from_pretrained("tiny")
        weights = pipe.transformer.state_dict()
        state = {original_name(name): tensor for name, tensor in weights.items()}
        metadata = {"config": json.dumps({"transformer": causal_config(pipe.transformer.config)})}
        model = comfy.sd.load_diffusion_model_state_dict(state, metadata=metadata)
        model.model.latent_format = _latent_format(pipe.vae.config)
        return model, Text(pipe), Frames(pipe)


def causal_config(config: Any) -> dict[str, Any]:
    """What ComfyUI reads in a checkpoint's metadata, for a diffusers configuration."""
    return {
        "causal_ar": True,
        "num_heads": config.num_attention_heads,
        "freq_dim": config.freq_dim,
        "text_dim": config.text_dim,
        "patch_size": list(config.patch_size),
        "out_dim": config.out_channels,
    }


def _latent_format(config: Any) -> Any:
    """Latents as the shipped VAE takes them: they need no scaling."""
    from comfy.latent_formats import LatentFormat

    latents = LatentFormat()
    latents.latent_channels, latents.latent_dimensions = config.z_dim, 3
    latents.spacial_downscale_ratio = config.scale_factor_spatial
    latents.temporal_downscale_ratio = config.scale_factor_temporal
    return latents


class Text:
    """The text encoder, as far as the node CLIP Text Encode asks."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def tokenize(self, text: str) -> str:
        """The text itself; it is taken apart when it is encoded."""
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        """A conditioning: text embeddings `[1, L, C_text]`."""
        return [[self._pipe.encode_prompt([tokens]), {}]]


class Frames:
    """The VAE, as far as the node VAE Decode asks."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def decode(self, samples: Tensor) -> Tensor:
        """Latents `[B, C, F, h, w]` to frames `[B, F, H, W, 3]` from 0 to 1."""
        decoder = self._pipe.decoder()
        chunks = samples.split(self._pipe.settings.chunk_size, dim=2)
        frames = torch.cat([decoder.decode(chunk) for chunk in chunks], dim=2)
        return (frames.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
