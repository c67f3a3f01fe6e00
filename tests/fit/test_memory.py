"""The memory arithmetic: published numbers, and the real modules at full size without storage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from tests.live import FusedAttention
from tethercache.backbones import attach
from tethercache.bench.meters import LiveBytes
from tethercache.errors import NotEnoughMemoryError
from tethercache.fit import choice
from tethercache.fit.choice import Machine, Placement, Wishes, fastest
from tethercache.fit.memory import (
    PUBLISHED,
    WAN_1_3B,
    WAN_5B,
    Sizes,
    Tiles,
    cache_bytes,
    decode_bytes,
    estimate,
    pass_bytes,
    sizes_of,
)
from tethercache.fit.sizes import transformer_parameters
from tethercache.models import BASES, PRESETS
from tethercache.policies import POLICIES
from tethercache.policies.tethercache import TetherCache
from tethercache.video import StreamingDecoder, TileSize

GIB = 2**30
DEFAULT = {"budget": 21, "hidden": 3}


def wan(sizes: Sizes = WAN_1_3B) -> WanTransformer3DModel:
    channels = 48 if sizes.vae_patched else 16
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_attention_heads=sizes.heads,
            ffn_dim=sizes.ffn,
            num_layers=sizes.layers,
            in_channels=channels,
            out_channels=channels,
        )
    return model.to(torch.bfloat16).requires_grad_(False)


def wan_vae(sizes: Sizes, dtype: torch.dtype) -> AutoencoderKLWan:
    """The VAE of Wan2.1, or of Wan2.2 as its repository in diffusers' format configures it."""
    patched = {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "in_channels": 12,
        "out_channels": 12,
        "is_residual": True,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    }
    with torch.device("meta"):
        return AutoencoderKLWan(**(patched if sizes.vae_patched else {})).to(dtype)


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


def test_parameters_are_counted_from_the_model_itself() -> None:
    for name, sizes in PUBLISHED.items():
        model = wan(sizes)
        counted = transformer_parameters(model.config, Path("model"))
        assert counted == sum(p.numel() for p in model.parameters()) == sizes.transformer, name
        vae = wan_vae(sizes, torch.bfloat16)
        assert sum(p.numel() for p in vae.parameters()) == sizes.vae, name
        pixels = 16 if vae.config.patch_size is None else 32
        assert sizes.tokens * pixels**2 == sizes.height * sizes.columns, name
    assert WAN_1_3B.transformer * 2 / 1e9 == pytest.approx(2.84, abs=0.01)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_sizes_of_its_settings(name: str) -> None:
    preset = PRESETS[name]
    settings, sizes = preset.settings, sizes_of(preset)
    assert (sizes.height, sizes.columns) == (settings.height, settings.width)
    assert sizes.chunk == settings.chunk_size
    assert sizes.text_length == settings.max_sequence_length
    assert preset.base == BASES[48 if sizes.vae_patched else 16]


@pytest.mark.parametrize("name", ["self-forcing", "krea-realtime", "longlive-2"])
def test_cache_and_pass_are_those_of_the_real_modules(name: str) -> None:
    preset = PRESETS[name]
    policy = POLICIES.parse(preset.policy)
    sizes = dataclasses.replace(sizes_of(preset), layers=2)
    model, chunk = wan(sizes), sizes.chunk
    scale = 16 if sizes.vae_patched else 8
    shape = (1, model.config.in_channels, chunk, sizes.height // scale, sizes.columns // scale)
    prompt = torch.empty(1, 512, 4096, dtype=torch.bfloat16, device="meta")
    latents = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    time = torch.empty(1, device="meta")
    attached = attach(model, policy, chunk_size=chunk)
    with torch.no_grad(), FusedAttention(), LiveBytes() as live, attached as session:
        for _ in range(policy.budget // chunk + 1):
            with session.chunk(chunk):
                with session.denoising_pass():
                    model(latents, time, prompt)
                with session.context_pass():
                    live.peak = live.now
                    model(latents, time, prompt)
        work = live.peak - live.now
        banks = list(session.caches())
        held = [tensor for bank in banks for tensor in tensors(bank)]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    kept = sum(storages.values())
    expected = cache_bytes(sizes, budget=policy.budget, hidden=policy.reserve(chunk))
    expected += sum(bank.text.nbytes for bank in banks)  # counted with the prompt
    assert kept == pytest.approx(expected, rel=0.01)
    assert work == pytest.approx(pass_bytes(sizes), rel=0.1)


@pytest.mark.parametrize(
    ("sizes", "element", "tiles"),
    [
        (WAN_1_3B, 2, None),
        (WAN_1_3B, 4, None),
        (WAN_1_3B, 2, Tiles()),
        (WAN_5B, 2, None),
        pytest.param(WAN_5B, 2, Tiles(), marks=pytest.mark.slow),
    ],
)
def test_decoding_takes_what_the_real_vae_takes(
    sizes: Sizes, element: int, tiles: Tiles | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the decoder asks whether its frames are finite; tensors without storage cannot say
    monkeypatch.setattr(Tensor, "tolist", lambda finite: [True] * len(finite))
    dtype = torch.bfloat16 if element == 2 else torch.float32
    vae, scale = wan_vae(sizes, dtype), 16 if sizes.vae_patched else 8
    shape = (1, vae.config.z_dim, 3, sizes.height // scale, sizes.columns // scale)
    latents = torch.empty(shape, dtype=dtype, device="meta")
    tile = tiles and TileSize(tiles.size, tiles.size, tiles.stride, tiles.stride)
    decoder = StreamingDecoder(vae, tile=tile)
    with LiveBytes() as live, torch.device("meta"):
        decoder.decode(latents)
    features, work = decode_bytes(sizes, element=element, tiles=tiles)
    assert features + work == pytest.approx(live.peak, rel=0.1)
    assert features == pytest.approx(live.now, rel=0.1)


def choose(
    limit: int, *, memory: int = 14, device: str = "cuda", **wishes: object
) -> tuple[Placement, bool]:
    wished = Wishes(**{"dtype": "bfloat16", **wishes})
    return fastest(WAN_1_3B, TetherCache(memory=memory), Machine(device), wished, limit)


def test_smaller_gpus_rotate_on_read_then_decode_in_tiles_then_remember_less() -> None:
    assert estimate(WAN_1_3B, **DEFAULT).total / 1e9 == pytest.approx(17.9, abs=0.2)
    large, fits = choose(24 * GIB)
    assert fits
    assert large.text_encoder == "cuda"
    assert large.keep_rotated
    assert large.tiles is None
    medium, fits = choose(16 * GIB)
    assert fits
    assert medium.text_encoder == "cuda"
    assert not medium.keep_rotated
    assert medium.tiles is None
    _, fits = choose(12 * GIB)
    assert not fits
    small, fits = choose(12 * GIB, memory=8)
    assert fits
    assert small.tiles is not None
    tiny, fits = choose(11 * GIB, memory=2)
    assert fits
    assert tiny.text_encoder == "cpu"


def test_a_cpu_has_no_other_place_for_the_text_encoder() -> None:
    options = {"memory": 2, "dtype": "float32", "device": "cpu"}
    assert not choose(22 * 10**9, **options)[1]
    placement, fits = choose(23 * 10**9, **options)
    assert fits
    assert placement.estimate.text_encoder > 22 * 10**9
    assert placement.estimate.overhead == 0


def test_a_cpu_computes_in_float32_where_that_fits() -> None:
    for limit, dtype in ((40 * 10**9, "float32"), (20 * 10**9, "bfloat16")):
        placement, fits = choose(limit, device="cpu", dtype=None)
        assert fits
        assert placement.dtype == placement.vae_dtype == dtype


def test_a_refusal_names_the_largest_memory_that_fits() -> None:
    with pytest.raises(
        NotEnoughMemoryError, match=r"the policy tethercache:memory=11 needs 12\.\d"
    ):
        choice.choose(WAN_1_3B, TetherCache(), Machine("cuda", 12 * GIB), Wishes())
    wishes = Wishes(limit=10**9)
    with pytest.raises(NotEnoughMemoryError, match=r"1\.00 GB are within `vram`$"):
        choice.choose(WAN_1_3B, TetherCache(), Machine("cuda", 12 * GIB), wishes)


def test_where_the_system_does_not_tell_what_is_free_all_is_trusted_to_fit() -> None:
    assert choice.choose(WAN_1_3B, TetherCache(), Machine("cuda"), Wishes()).keep_rotated


def test_an_estimate_shows_its_numbers() -> None:
    shown = str(estimate(WAN_1_3B, budget=21, hidden=3))
    for part in ("17.", "weights 3.09", "cache 9.9", "decode 4.1", "overhead 0.60"):
        assert part in shown


def test_a_float32_vae_and_an_overlap_take_what_they_add() -> None:
    plain = estimate(WAN_1_3B, budget=21, hidden=3)
    mixed = estimate(WAN_1_3B, budget=21, hidden=3, vae_element=4)
    assert mixed.weights - plain.weights == 2 * WAN_1_3B.vae
    assert mixed.features == 2 * plain.features
    assert mixed.work == 2 * plain.work
    assert mixed.cache == plain.cache
    overlapped = estimate(WAN_1_3B, budget=21, hidden=3, overlap=True)
    assert overlapped.work - plain.work == pass_bytes(WAN_1_3B)
    assert choose(24 * GIB, overlap=(True, False))[0].overlap
    assert not choose(plain.total, overlap=(True, False))[0].overlap
