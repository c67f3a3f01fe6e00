"""A clip to start from: whole chunks, and latents that decode to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn

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
    assert torch.equal(latents, ((raw - mean) / std))


def test_frames_are_taken_as_they_are_needed() -> None:
    vae = toy_pipeline().vae
    frames = torch.randint(0, 256, (13, 16, 16, 3), dtype=torch.uint8)
    taken = 0
    seen: list[tuple[int, int]] = []

    def source() -> Iterator[Tensor]:
        nonlocal taken
        for taken, frame in enumerate(frames, start=1):  # noqa: B007
            yield frame

    vae.encoder.register_forward_pre_hook(lambda _, given: seen.append((taken, given[0].shape[2])))
    latents = encode_frames(vae, source())
    assert seen == [(1, 1), (5, 4), (9, 4), (13, 4)]
    assert torch.equal(latents, encode_frames(vae, frames))


def test_an_offloaded_vae_is_fetched_before_it_is_used() -> None:
    """As `enable_model_cpu_offload` does it; the place where the weights wait here is a dict."""

    class Fetch(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            module.load_state_dict(weights, assign=True)
            return args, kwargs

    vae = toy_pipeline().vae
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    expected = encode_frames(vae, frames)
    weights = vae.state_dict()
    add_hook_to_module(vae.to("meta"), Fetch())
    assert torch.equal(encode_frames(vae, frames), expected)
