"""Frames in slots: what is written, moved, measured and rotated, sample by sample."""

from __future__ import annotations

import pytest
import torch

from tethercache.cache import EMPTY, LayerCache, Rope
from tethercache.cache import layer_cache as module

SHAPE = (2, 3, 4, 2, 12)  # B, F, T, H, D


@pytest.fixture(params=["one by one", "together"])
def cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LayerCache:
    if request.param == "one by one":
        monkeypatch.setattr(module, "GROUP", 1)
    cache = LayerCache(budget=6, staging=2)
    cache.allocate(torch.zeros(SHAPE))
    return cache


def test_samples_keep_their_own_slots(cache: LayerCache) -> None:
    slots = torch.tensor([[0, 1, 2], [5, 3, 4]])
    key, value = torch.randn(2, *SHAPE).unbind(0)
    cache.open(slots)
    cache.write(slots, key, value)
    assert cache.frame_index[0].tolist() == [0, 1, 2, *[EMPTY] * 5]
    assert cache.frame_index[1].tolist() == [*[EMPTY] * 3, 1, 2, 0, EMPTY, EMPTY]
    assert torch.equal(cache.key[1, 3], key[1, 1])
    assert torch.equal(cache.value[0, 2], value[0, 2])
    assert torch.equal(cache.oldest_first(3, 6)[1], torch.tensor([5, 3, 4]))


def test_statistics_are_those_of_the_tokens(cache: LayerCache) -> None:
    slots = torch.tensor([[0, 1, 2], [5, 3, 4]])
    key, value = torch.randn(2, *SHAPE).mul(3).add(100).unbind(0)
    cache.write(slots, key, value)
    cache.commit(slots)
    for i, frames in enumerate((key, value)):
        stats = cache.stats.at(cache.rows, slots)
        torch.testing.assert_close(stats.mean[i], frames.mean(2))
        torch.testing.assert_close(stats.var[i], frames.var(2, correction=0), atol=1e-3, rtol=1e-4)


def test_a_frame_set_aside_takes_all_that_is_known_of_it_along(cache: LayerCache) -> None:
    slots = cache.slots(0, 3)
    cache.open(slots)
    cache.write(slots, *torch.randn(2, *SHAPE))
    cache.commit(slots)
    source = torch.tensor([[0, 2], [1, 0]])
    expected = cache.frames[:, cache.rows, source].clone()
    cache.set_aside(source)
    assert [i for group in cache.staged_groups() for i in range(*group)] == [6, 7]
    assert torch.equal(cache.frames[:, :, 6:], expected)
    assert cache.frame_index[:, 6:].tolist() == [[0, 2], [1, 0]]
    moved, origin = cache.stats.between(6, 8), cache.stats.at(cache.rows, source)
    assert torch.equal(moved.mean, origin.mean)
    assert torch.equal(moved.var, origin.var)
    cache.empty_staging()
    assert cache.staged == 0
    assert (cache.frame_index[:, 6:] == EMPTY).all()


def test_only_the_slots_named_are_rotated(cache: LayerCache) -> None:
    slots = cache.slots(0, 3)
    cache.write(slots, *torch.randn(2, *SHAPE))
    rope = Rope(12, 2, 2)
    position = torch.tensor([[4, 0, 7], [2, 9, 1]])
    cache.rotate(range(1, 3), position, rope)
    expected = rope.at(position[:, 1:])(cache.key[:, 1:3])
    assert torch.equal(cache.rotated[:, 1:3], expected)
    assert not cache.rotated[:, [0, 3, 4, 5]].any()


def test_an_empty_cache_says_so() -> None:
    with pytest.raises(RuntimeError, match="no frame has been written"):
        _ = LayerCache(6, 0).rows
