from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from tethercache.cache import Rope


def test_it_equals_the_rotary_table_of_diffusers_and_needs_no_limit() -> None:
    frames, height, width, head_dim = 5, 3, 4, 32
    x = torch.randn(1, frames, height * width, 2, head_dim)
    table = WanRotaryPosEmbed(head_dim, (1, 2, 2), max_seq_len=64)
    cos, sin = table(torch.zeros(1, 1, frames, 2 * height, 2 * width))
    flat = x.flatten(1, 2)
    even, odd = flat.unflatten(-1, (-1, 2)).unbind(-1)
    expected = torch.empty_like(flat)
    expected[..., 0::2] = even * cos[..., 0::2] - odd * sin[..., 1::2]
    expected[..., 1::2] = even * sin[..., 1::2] + odd * cos[..., 0::2]
    rope = Rope(head_dim, height, width)
    torch.testing.assert_close(rope.at(torch.arange(5)[None])(x).flatten(1, 2), expected.float())
    assert rope.at(torch.tensor([[10**9]]))(x[:, :1]).isfinite().all()


def test_only_differences_of_positions_matter_to_inner_products() -> None:
    rope = Rope(32, 1, 1)
    q, k = torch.randn(2, 1, 1, 1, 1, 32).unbind(0)

    def product(query_at: int, key_at: int) -> torch.Tensor:
        turned = (rope.at(torch.tensor([[p]]))(x) for x, p in ((q, query_at), (k, key_at)))
        a, b = turned
        return (a * b).sum()

    torch.testing.assert_close(product(7, 2), product(1_000_007, 1_000_002), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_or_not_the_bits_and_the_dtype_are_the_same(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 6, 2, 12, dtype=dtype)
    rotation = Rope(12, 2, 3).at(torch.tensor([[0, 5]]))
    expected = rotation(x)
    assert expected.dtype == dtype
    buffer = torch.zeros(1, 4, 6, 2, 12, dtype=dtype)
    buffer[:, 1:3] = x
    rotation.turn_(buffer[:, 1:3])
    assert torch.equal(buffer[:, 1:3], expected)
    assert not buffer[:, [0, 3]].any()
