from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.oracles.whole_decode import whole_decode
from tests.states import written_and_read
from tethercache.alignment import is_aligned
from tethercache.state import each_tensor, split
from tethercache.video import StreamingDecoder, TileSize, channels_last, to_uint8

VARIANTS = ("wan2.1", "wan2.2")


def toy_vae(variant: str) -> AutoencoderKLWan:
    """A VAE of 4 latent channels; a latent is 4 pixels wide, or 8 with patches."""
    torch.manual_seed(0)
    patches = (
        {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
        if variant == "wan2.2"
        else {}
    )
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 2.0, 1.0],
        scale_factor_spatial=8 if patches else 4,
        **patches,
    ).eval()


@pytest.fixture(params=VARIANTS)
def vae(request: pytest.FixtureRequest) -> AutoencoderKLWan:
    return toy_vae(request.param)


def latents(num: int, height: int = 4, width: int = 6, seed: int = 0, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, num, height, width, generator=generator)


def streamed(decoder: StreamingDecoder, z: Tensor, chunks: list[int]) -> Tensor:
    return torch.cat([decoder.decode(part) for part in z.split(chunks, dim=2)], dim=2)


def assert_equal(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 3, 1], [1, 3, 3], [2, 5], [6, 1]], ids=str)
def test_streaming_equals_a_whole_decode_for_every_chunking(
    vae: AutoencoderKLWan, chunks: list[int]
) -> None:
    z = latents(7, batch=2)
    assert_equal(streamed(StreamingDecoder(vae), z, chunks), whole_decode(vae, z))


def test_an_offloaded_vae_is_fetched_before_it_is_used(vae: AutoencoderKLWan) -> None:
    """As `enable_model_cpu_offload` does it; the place where the weights wait here is a dict."""

    class Fetch(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            module.load_state_dict(weights, assign=True)
            return args, kwargs

    z = latents(3)
    expected = whole_decode(vae, z)
    weights = vae.state_dict()
    add_hook_to_module(vae.to("meta"), Fetch())
    assert_equal(streamed(StreamingDecoder(vae), z, [1, 2]), expected)


def test_the_first_latent_frame_gives_one_pixel_frame_and_later_ones_four(
    vae: AutoencoderKLWan,
) -> None:
    decoder = StreamingDecoder(vae)
    z = latents(6)
    assert [decoder.decode(part).shape[2] for part in z.split([1, 2, 3], dim=2)] == [1, 8, 12]


def test_streams_on_one_vae_can_be_interleaved_with_each_other_and_with_whole_decodes(
    vae: AutoencoderKLWan,
) -> None:
    a, b = latents(5, seed=1), latents(5, height=5, width=3, seed=2)
    first, second = StreamingDecoder(vae), StreamingDecoder(vae)
    frames: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(5):
        frames[0].append(first.decode(a[:, :, i : i + 1]))
        whole_decode(vae, latents(2, seed=3))
        frames[1].append(second.decode(b[:, :, i : i + 1]))
    assert_equal(torch.cat(frames[0], dim=2), whole_decode(vae, a))
    assert_equal(torch.cat(frames[1], dim=2), whole_decode(vae, b))


def test_a_stream_leaves_no_trace_on_the_vae(vae: AutoencoderKLWan) -> None:
    z = latents(3)
    before = whole_decode(vae, z)
    state = dict(vars(vae))
    streamed(StreamingDecoder(vae), z, [1, 2])
    assert vars(vae) == state
    assert vae._feat_map == [None] * len(vae._feat_map)
    assert torch.equal(whole_decode(vae, z), before)


def cache_bytes(decoder: StreamingDecoder) -> int:
    """Memory that the stream keeps alive, whole storages: a view keeps all that it views."""
    storages = {
        entry.untyped_storage().data_ptr(): entry.untyped_storage().nbytes()
        for cache in itertools.chain(*decoder._caches)
        for entry in cache.features
        if isinstance(entry, Tensor)
    }
    return sum(storages.values())


@pytest.mark.parametrize("tile", [None, TileSize(16, 16, 8, 8)], ids=["whole", "tiled"])
def test_the_memory_of_a_stream_does_not_grow_with_its_length(
    vae: AutoencoderKLWan, tile: TileSize | None
) -> None:
    decoder = StreamingDecoder(vae, tile=tile)
    sizes = []
    for seed in range(5):
        decoder.decode(latents(3, seed=seed))
        sizes.append(cache_bytes(decoder))
    assert sizes == [sizes[0]] * 5
    one_frame = StreamingDecoder(vae, tile=tile)
    for seed in range(3):
        one_frame.decode(latents(1, seed=seed))
    assert cache_bytes(one_frame) == sizes[0]  # nor with the size of the chunks


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    [
        (4, 6, (16, 16, 8, 8)),
        (5, 6, (24, 16, 16, 8)),
        (3, 7, (32, 16, 32, 16)),  # no overlap
        (4, 2, (16, 16, 8, 16)),
        (3, 3, (64, 64, 8, 8)),  # fits into one tile
    ],
)
def test_tiled_streaming_equals_the_tiled_decode_of_the_vae(
    vae: AutoencoderKLWan, height: int, width: int, tile: tuple[int, int, int, int]
) -> None:
    z = latents(4, height, width)
    expected = whole_decode(vae, z, tile)
    assert_equal(streamed(StreamingDecoder(vae, tile=TileSize(*tile)), z, [1, 2, 1]), expected)
    assert expected.shape[3:] == whole_decode(vae, z).shape[3:]


def test_tiling_changes_the_picture_so_that_the_comparison_means_something() -> None:
    vae, z = toy_vae("wan2.1"), latents(2)
    assert (whole_decode(vae, z, (16, 16, 8, 8)) - whole_decode(vae, z)).abs().max() > 1e-3


def test_a_bfloat16_vae_gives_float32_frames(vae: AutoencoderKLWan) -> None:
    vae.to(torch.bfloat16)
    z = latents(3)
    frames = streamed(StreamingDecoder(vae), z, [1, 2])
    assert frames.dtype == torch.float32
    assert_equal(frames, whole_decode(vae, z))
    assert frames.abs().max() <= 1


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ((1, 4, 0, 4, 6), "F of at least 1"),
        ((1, 3, 2, 4, 6), r"must be \[B, 4, F, h, w\]"),
        ((4, 2, 4, 6), r"must be \[B, 4, F, h, w\]"),
        ((2, 4, 2, 4, 6), r"must keep their \[B, h, w\]"),
        ((1, 4, 2, 4, 4), r"must keep their \[B, h, w\]"),
    ],
)
def test_latents_that_do_not_belong_to_the_stream_are_refused(
    shape: tuple[int, ...], rule: str
) -> None:
    decoder = StreamingDecoder(toy_vae("wan2.1"))
    decoder.decode(latents(1))
    with pytest.raises(ValueError, match=rule):
        decoder.decode(torch.zeros(shape))


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`stride_width` \(24\) must be between 1 and `width` \(16\)"
    ):
        TileSize(16, 16, 8, 24)
    with pytest.raises(ValueError, match=r"`tile.stride_height` \(6\) must be a multiple of 4"):
        StreamingDecoder(toy_vae("wan2.1"), tile=TileSize(16, 16, 6, 8))


def test_frames_become_bytes_by_rounding() -> None:
    levels = torch.arange(256, dtype=torch.float32)
    frames = (levels / 127.5 - 1).view(1, 1, 1, 16, 16).expand(2, 3, 5, 16, 16)
    for shift in (-0.45, 0.0, 0.45):
        result = to_uint8((frames + shift / 127.5).clamp(-1, 1))
        assert result.shape == (2, 5, 16, 16, 3)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        assert torch.equal(result[1, 4, ..., 2].flatten(), levels.to(torch.uint8))


def test_channels_last_is_a_layout_and_changes_no_number(vae: AutoencoderKLWan) -> None:
    z = latents(3)
    before = streamed(StreamingDecoder(vae), z, [1, 2])
    state = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    channels_last(vae)
    assert all(torch.equal(tensor, state[name]) for name, tensor in vae.state_dict().items())
    weight = vae.decoder.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not weight.is_contiguous()
    assert_equal(streamed(StreamingDecoder(vae), z, [1, 2]), before)


def test_a_compiled_decoder_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    vae = toy_vae("wan2.1")
    counter = CompileCounterWithBackend("eager")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **o: compile_(model, backend=counter, **o))
    z = latents(6)
    expected = streamed(StreamingDecoder(vae), z, [1, 2, 3])
    assert torch.equal(streamed(StreamingDecoder(vae, compiled=True), z, [1, 2, 3]), expected)
    compiled = counter.frame_count
    assert torch.equal(streamed(StreamingDecoder(vae, compiled=True), z, [3, 3]), expected)
    assert 0 < compiled == counter.frame_count <= 4


TILE = TileSize(16, 16, 16, 8)


@pytest.mark.parametrize(("before", "tile"), [(0, None), (1, None), (3, None), (2, TILE)])
def test_another_decoder_goes_on_from_a_state(
    vae: AutoencoderKLWan, before: int, tile: TileSize | None
) -> None:
    z = latents(5, batch=2, height=5)
    one, other = StreamingDecoder(vae, tile=tile), StreamingDecoder(vae, tile=tile)
    for i in range(before):
        one.decode(z[:, :, i : i + 1])
    other.decode(latents(1, height=6))  # forgotten
    other.load_state_dict(written_and_read(one.state_dict()))
    rest = z[:, :, before:]
    assert torch.equal(other.decode(rest), one.decode(rest))


def test_a_state_keeps_the_layout_of_the_features() -> None:
    """Convolutions with channels last may sum in another order."""
    vae = toy_vae("wan2.1")
    channels_last(vae)
    one, other = StreamingDecoder(vae), StreamingDecoder(vae)
    z = latents(6)
    one.decode(z[:, :, :3])
    other.load_state_dict(written_and_read(one.state_dict()))
    mine, theirs = (
        [x for x in decoder._caches[0][0].features if isinstance(x, Tensor)]
        for decoder in (one, other)
    )
    assert any(not x.is_contiguous() for x in mine)
    assert [x.stride() for x in theirs] == [x.stride() for x in mine]
    assert all(map(is_aligned, theirs))
    assert torch.equal(other.decode(z[:, :, 3:]), one.decode(z[:, :, 3:]))


def test_a_state_stays_as_it_was_while_the_decoder_goes_on(vae: AutoencoderKLWan) -> None:
    decoder = StreamingDecoder(vae)
    decoder.decode(latents(3))
    state = decoder.state_dict()
    before = split(each_tensor(state, Tensor.clone))[0]
    decoder.decode(latents(3))
    assert all(torch.equal(x, before[name]) for name, x in split(state)[0].items())


def test_a_state_of_another_decoder_is_refused() -> None:
    state = StreamingDecoder(toy_vae("wan2.1"), tile=TILE).state_dict()
    with pytest.raises(ValueError, match=r"`tile` is \{'height': 16.*in it and None here"):
        StreamingDecoder(toy_vae("wan2.1")).load_state_dict(state)
    with pytest.raises(ValueError, match="`dtype` is 'float32' in it and 'bfloat16' here"):
        StreamingDecoder(toy_vae("wan2.1").bfloat16(), tile=TILE).load_state_dict(state)
    with pytest.raises(ValueError, match="no state of a decoder"):
        StreamingDecoder(toy_vae("wan2.1")).load_state_dict({})
