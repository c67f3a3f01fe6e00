"""Frames in slots: what is written, moved, measured and rotated, sample by sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tethercache.cache import EMPTY, Bank, FrameStats, Rope, Slots
from tethercache.cache import store as module

SHAPE = (2, 3, 4, 2, 12)  # B, F, T, H, D
ROPE = Rope(12, 2, 2)


@pytest.fixture(params=["one by one", "together"])
def bank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bank:
    """A bank with frames 0, 1, 2 of both samples, in different slots."""
    if request.param == "one by one":
        monkeypatch.setattr(module, "GROUP", 1)
    bank = Bank(budget=6, reserve=2)
    bank.allocate(torch.zeros(SHAPE))
    add(bank, Slots(torch.tensor([[0, 1, 2], [2, 0, 1]]), range(3)))
    bank.readable = 3
    return bank


def add(bank: Bank, slots: Slots, seed: int = 0) -> None:
    shape = (SHAPE[0], len(slots), *SHAPE[2:])
    generator = torch.Generator().manual_seed(seed)
    newest = bank.frame_index.amax(dim=1, keepdim=True)
    bank.begin(slots, newest + torch.arange(1, len(slots) + 1))
    bank.write(*(torch.randn(shape, generator=generator) * 3 + 100 for _ in range(2)))
    bank.measure()


def held(bank: Bank, slots: Slots) -> tuple[torch.Tensor, ...]:
    """All that is known of the frames in `slots`."""
    stats = bank.stats.at(bank.rows, slots.index)
    frames = bank.frames[:, bank.rows, slots.index]
    marks = bank.marks[:, bank.rows, slots.index]
    return frames.clone(), marks.clone(), stats.mean.clone(), stats.var.clone()


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_samples_keep_their_own_slots(bank: Bank) -> None:
    assert bank.frame_index.tolist() == [[0, 1, 2, *[EMPTY] * 5], [1, 2, 0, *[EMPTY] * 5]]
    assert bank.oldest(2).index.tolist() == [[0, 1], [2, 0]]
    assert bank.newest(2).index.tolist() == [[1, 2], [0, 1]]
    assert bank.age().tolist() == bank.index().tolist() == [[0, 1, 2], [1, 2, 0]]


def test_statistics_are_those_of_the_tokens(bank: Bank) -> None:
    stats, frames = bank.stats.between(0, 3), bank.frames[:, :, :3]
    torch.testing.assert_close(stats.mean, frames.mean(3))
    torch.testing.assert_close(stats.var, frames.var(3, correction=0), atol=1e-3, rtol=1e-4)


def test_a_hidden_frame_takes_all_that_is_known_of_it_along(bank: Bank) -> None:
    source = Slots(torch.tensor([[0, 2], [1, 0]]), range(3))
    bank.pin(2, 3)
    before = held(bank, source)
    there = bank.hide(source)
    assert there.span == range(6, 8)
    assert bank.hidden == 2
    assert same(held(bank, there), before)
    assert same(held(bank, bank.waiting()), before)
    with pytest.raises(ValueError, match="reserve of 2 frames holds 2 and has no room for 1 more"):
        bank.hide(source[:1])
    bank.release()
    assert bank.hidden == 0
    assert (bank.frame_index[:, 6:] == EMPTY).all()


def test_recalled_frames_are_edited_and_take_the_places_of_those_that_lost(bank: Bank) -> None:
    hidden = bank.hide(bank.slots(2, 3))
    add(bank, bank.slots(2, 3), seed=1)
    keep = torch.tensor([[True, False, True], [True, True, False]])

    def edit(frames: torch.Tensor, own: FrameStats) -> tuple[torch.Tensor, FrameStats]:
        return frames * 2, FrameStats(own.mean * 2, own.var * 4)

    before, waiting = held(bank, bank.slots(0, 3)), held(bank, hidden)
    bank.recall(bank.slots(0, 2), hidden, keep, edit)
    assert bank.frame_index[:, :3].tolist() == [[0, 2, 3], [1, 2, 3]]
    assert torch.equal(bank.frames[:, 0, 1], waiting[0][:, 0, 0] * 2)
    assert torch.equal(bank.stats.mean[:, 0, 1], waiting[2][:, 0, 0] * 2)
    assert torch.equal(bank.frames[:, 1, :3], before[0][:, 1])


def test_merging_is_a_weighted_mean_and_keeps_the_index(bank: Bank) -> None:
    add(bank, bank.take(2), seed=1)
    old, new = bank.frames[:, :, :2].clone(), bank.frames[:, :, 3:5].clone()
    bank.merge(bank.slots(0, 2), bank.slots(3, 5), 0.75)
    torch.testing.assert_close(bank.frames[:, :, :2], 0.75 * old + 0.25 * new)
    torch.testing.assert_close(bank.stats.mean[:, :, :2], bank.frames[:, :, :2].mean(3))
    assert bank.frame_index[0].tolist() == [0, 1, 2, 3, 4, EMPTY, EMPTY, EMPTY]


def test_packed_tokens_keep_their_place_in_the_grid(bank: Bank) -> None:
    slots, keys = bank.slots(0, 2), bank.key[:, :2].flatten(1, 2).clone()
    score = torch.arange(8.0).expand(2, -1).clone()
    score[0, 1] = 9  # token 1 of the first frame, beside the three last ones of the second
    bank.pack(slots, score, bank.slots(0, 1))
    assert torch.equal(bank.key[0, 0], keys[0, [1, 5, 6, 7]])
    assert torch.equal(bank.key[1, 0], keys[1, [4, 5, 6, 7]])
    assert bank.cells()[:, 0].tolist() == [[1, 1, 2, 3], [0, 1, 2, 3]]
    bank.place(bank.age(), ROPE)
    packed = ROPE.at(bank.age()[:, :1], bank.cells()[:, :1])(bank.key[:, :1])
    assert torch.equal(bank.rotated[:, :1], packed)
    add(bank, bank.slots(0, 1), seed=1)
    assert bank.cells()[:, 0].tolist() == [[0, 1, 2, 3]] * 2


def test_keeping_some_frames_forgets_all_others(bank: Bank) -> None:
    add(bank, bank.take(2), seed=1)
    kept = bank.newest(3)
    before = held(bank, kept)
    bank.keep(kept)
    assert bank.readable == 3
    assert same(held(bank, bank.slots(0, 3)), before)
    assert bank.frame_index[0].tolist() == [2, 3, 4, *[EMPTY] * 5]


def test_the_chunk_behind_a_jump_stands_further_away_until_the_next_one_begins(bank: Bank) -> None:
    bank.jump(40)
    add(bank, bank.take(2), seed=1)
    assert bank.age()[0].tolist() == [0, 1, 2, 40, 41]
    assert bank.index()[1].tolist() == [1, 2, 0, 40, 41]
    add(bank, bank.take(1), seed=2)
    assert bank.age()[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not bank.marked


def test_a_jump_never_leads_back(bank: Bank) -> None:
    bank.jump(2)
    add(bank, bank.take(2), seed=1)
    assert bank.age()[0].tolist() == [0, 1, 2, 3, 4]


def test_pinned_frames_leave_last_and_win_and_forgotten_ones_lose(bank: Bank) -> None:
    bank.pin(0, 1)
    bank.forget(1, 2)
    assert bank.oldest(3).index.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert bank.oldest(1, spare_pinned=False).index.tolist() == [[0], [2]]
    score = bank.prefer(torch.zeros(2, 3), bank.slots(0, 3))
    assert score[0].tolist() == [torch.inf, -torch.inf, 0]
    assert bank.forgotten() is not None
    assert bank.forgotten().tolist() == [[False, True, False], [True, False, False]]
    add(bank, bank.oldest(2), seed=1)  # new frames have no marks
    assert bank.forgotten().tolist() == [[False] * 3] * 2


@pytest.mark.parametrize("order", ["age", "index", "of its own"])
def test_kept_keys_are_rotated_whenever_one_moved(bank: Bank, order: str) -> None:
    def place() -> torch.Tensor:
        if order == "of its own":
            return bank.index() * 3 + 1
        return bank.age() if order == "age" else bank.index()

    def check() -> None:
        bank.place(place(), ROPE)
        bank.rotated[bank.rows, bank.current.index] = bank.turn(
            bank.key[bank.rows, bank.current.index]
        )
        expected = ROPE.at(place())(bank.key[:, : bank.readable])
        assert torch.equal(bank.keys(ROPE), expected)

    check()
    add(bank, bank.take(3), seed=1)
    check()
    add(bank, bank.oldest(2, since=3), seed=2)
    check()
    bank.merge(bank.slots(0, 1), bank.slots(3, 4), 0.5)
    check()
    bank.jump(7)
    hidden = bank.hide(bank.oldest(2, since=3))
    add(bank, bank.oldest(2, since=3), seed=3)
    check()
    keep = torch.tensor([[True, False, False, True, True]] * 2)
    bank.recall(bank.slots(0, 3), hidden, keep)
    check()
    bank.keep(bank.newest(4))
    add(bank, bank.take(1), seed=4)
    check()


def test_a_saved_bank_goes_on_as_the_one_that_was_saved(bank: Bank) -> None:
    bank.pin(1, 2)
    bank.hide(bank.slots(0, 1))
    bank.pack(bank.slots(0, 2), torch.rand(2, 8), bank.slots(0, 1))
    bank.notes["seen"] = torch.tensor([4])
    other = Bank(budget=6, reserve=2)
    other.load_state_dict(bank.state_dict())
    for one in (bank, other):
        add(one, one.take(2), seed=1)
        one.place(one.age(), ROPE)
        one.rotated[one.rows, one.current.index] = one.turn(one.key[one.rows, one.current.index])
    assert same(held(bank, bank.slots(0, 8)), held(other, other.slots(0, 8)))
    assert torch.equal(bank.keys(ROPE), other.keys(ROPE))
    assert torch.equal(other.notes["seen"], bank.notes["seen"])
    assert other.oldest(1).index.tolist() == bank.oldest(1).index.tolist()


def test_an_empty_bank_says_so() -> None:
    with pytest.raises(RuntimeError, match="no frame has been written"):
        _ = Bank(6).rows
    assert Bank(6).state_dict() == {}
