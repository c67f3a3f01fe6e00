"""A clip to start from: whole chunks, and latents that decode to it."""

from __future__ import annotations

import pytest
import torch

from tests.toys import toy_pipeline
from tethercache.conditioning import encode_frames, prefix_frames


@pytest.mark.parametrize(
    ("frames", "chunk", "used"),
    [(1, 3, 1), (4, 3, 1), (5, 3, 5), (9, 3, 9), (12, 3, 9), (21, 3, 21), (30, 3, 21), (30, 1, 29)],
)
def test_a_clip_is_cut_to_whole_chunks(frames: int, chunk: int, used: int) -> None:
    assert prefix_frames(frames, chunk) == used


def test_latents_are_normalised_as_the_pipeline_s_own() -> None:
    vae = toy_pipeline().vae
    frames = torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8)
    latents = encode_frames(vae, frames)
    assert latents.shape == (1, 4, 3, 4, 4)
    pixels = frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1)
        for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    assert torch.allclose(latents * std + mean, raw, atol=1e-5)
