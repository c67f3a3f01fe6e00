"""The memory arithmetic: published numbers, and the real modules at full size without storage."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from tests.live import FusedAttention
from tethercache.backbones import attach
from tethercache.bench.meters import LiveBytes
from tethercache.memory import (
    WAN_1_3B,
    Tiles,
    cache_bytes,
    decode_bytes,
    estimate,
    pass_bytes,
    place,
    transformer_parameters,
)
from tethercache.policies.tethercache import TetherCache
from tethercache.video import StreamingDecoder, TileSize

GIB = 2**30


def wan(layers: int = 30) -> WanTransformer3DModel:
    with torch.device("meta"):
        model = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=layers)
    return model.to(torch.bfloat16).requires_grad_(False)


def tensors(held: object) -> list[Tensor]:
    """All tensors that an object or its plain attributes hold."""
    if isinstance(held, Tensor):
        return [held]
    return [t for value in getattr(held, "__dict__", {}).values() for t in tensors(value)]


def test_a_latent_frame_takes_what_is_published() -> None:
    statistics = 4 * 4 * 30 * 1536
    assert (cache_bytes(WAN_1_3B, budget=1, rotated=False) - statistics) / 1e6 == pytest.approx(
        287.5, abs=0.05
    )
    assert (cache_bytes(WAN_1_3B, budget=1) - statistics) / 1e6 == pytest.approx(431.3, abs=0.05)
    assert cache_bytes(WAN_1_3B, budget=21, rotated=False) / 1e9 == pytest.approx(6.04, abs=0.02)
    assert cache_bytes(WAN_1_3B, budget=12, rotated=False) / 1e9 == pytest.approx(3.45, abs=0.02)


def test_parameters_are_counted_from_a_configuration() -> None:
    model = wan()
    counted = transformer_parameters(model.config)
    assert counted == sum(p.numel() for p in model.parameters()) == WAN_1_3B.transformer
    assert counted * 2 / 1e9 == pytest.approx(2.84, abs=0.01)
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert sum(p.numel() for p in vae.parameters()) == WAN_1_3B.vae


def test_cache_and_pass_are_those_of_the_real_modules() -> None:
    layers, policy, sizes = 2, TetherCache(), dataclasses.replace(WAN_1_3B, layers=2)
    model = wan(layers)
    prompt = torch.empty(1, 512, 4096, dtype=torch.bfloat16, device="meta")
    latents = torch.empty(1, 16, 3, 60, 104, dtype=torch.bfloat16, device="meta")
    time = torch.empty(1, device="meta")
    attached = attach(model, policy, chunk_size=3)
    with torch.no_grad(), FusedAttention(), LiveBytes() as live, attached as session:
        for _ in range(8):
            with session.chunk(3):
                with session.denoising_pass():
                    model(latents, time, prompt)
                with session.context_pass():
                    live.peak = live.now
                    model(latents, time, prompt)
        work = live.peak - live.now
        held = [tensor for cache in session.caches() for tensor in tensors(cache)]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    kept = sum(storages.values())
    expected = cache_bytes(sizes, budget=policy.budget, staging=policy.reserve(3))
    assert kept == pytest.approx(expected, rel=0.01)
    assert work == pytest.approx(pass_bytes(sizes), rel=0.1)


@pytest.mark.parametrize(("element", "tiles"), [(2, None), (4, None), (2, Tiles())])
def test_decoding_takes_what_the_real_vae_takes(element: int, tiles: Tiles | None) -> None:
    dtype = torch.bfloat16 if element == 2 else torch.float32
    with torch.device("meta"):
        vae = AutoencoderKLWan().to(dtype)
        latents = torch.empty(1, 16, 3, 60, 104, dtype=dtype)
    tile = tiles and TileSize(tiles.size, tiles.size, tiles.stride, tiles.stride)
    decoder = StreamingDecoder(vae, tile=tile)
    with LiveBytes() as live, torch.device("meta"):
        decoder.decode(latents)
    features, work = decode_bytes(WAN_1_3B, element=element, tiles=tiles)
    assert features + work == pytest.approx(live.peak, rel=0.1)
    assert features == pytest.approx(live.now, rel=0.1)


def test_smaller_gpus_rotate_on_read_then_decode_in_tiles_then_remember_less() -> None:
    default = {"budget": 21, "staging": 3}
    assert estimate(WAN_1_3B, **default).total / 1e9 == pytest.approx(17.9, abs=0.2)
    large = place(WAN_1_3B, 24 * GIB, **default)
    assert large.fits
    assert large.text_encoder_on_device
    assert large.keep_rotated
    assert large.tiles is None
    medium = place(WAN_1_3B, 16 * GIB, **default)
    assert medium.fits
    assert medium.text_encoder_on_device
    assert not medium.keep_rotated
    assert medium.tiles is None
    assert not place(WAN_1_3B, 12 * GIB, **default).fits
    small = place(WAN_1_3B, 12 * GIB, budget=15, staging=3)
    assert small.fits
    assert small.tiles is not None
    tiny = place(WAN_1_3B, 11 * GIB, budget=9, staging=3)
    assert tiny.fits
    assert not tiny.text_encoder_on_device


def test_a_cpu_has_no_other_place_for_the_text_encoder() -> None:
    options = {"budget": 9, "staging": 3, "element": 4, "reserve": 0}
    assert place(WAN_1_3B, 22 * 10**9, **options).fits
    assert not place(WAN_1_3B, 22 * 10**9, **options, offload=False).fits
    assert place(WAN_1_3B, 23 * 10**9, **options, offload=False).estimate.text_encoder > 22 * 10**9


def test_an_estimate_shows_its_numbers() -> None:
    shown = str(estimate(WAN_1_3B, budget=21, staging=3))
    for part in ("17.", "weights 3.09", "cache 9.9", "decode 4.1", "reserve 0.60"):
        assert part in shown


def test_a_float32_vae_and_an_overlap_take_what_they_add() -> None:
    plain = estimate(WAN_1_3B, budget=21, staging=3)
    mixed = estimate(WAN_1_3B, budget=21, staging=3, vae_element=4)
    assert mixed.weights - plain.weights == 2 * WAN_1_3B.vae
    assert mixed.features == 2 * plain.features
    assert mixed.work == 2 * plain.work
    assert mixed.cache == plain.cache
    overlapped = estimate(WAN_1_3B, budget=21, staging=3, overlap=True)
    assert overlapped.work - plain.work == pass_bytes(WAN_1_3B)
    wish = {"budget": 21, "staging": 3, "overlap": (True, False)}
    assert place(WAN_1_3B, 24 * GIB, **wish).overlap
    assert not place(WAN_1_3B, plain.total, **wish).overlap
