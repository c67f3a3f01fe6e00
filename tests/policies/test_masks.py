"""What passes see by role, step and layer, and where frames stand, computed by hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.policies.banks import CHANNELS, CONTEXT, TOKENS, constant, fill
from tests.policies.banks import seen as slots_seen
from tests.policies.runs import latents_of
from tethercache.cache import Bank, Cut, Forget, Fused, Pass, PassKind, Policy, View
from tethercache.policies import POLICIES
from tethercache.policies.window import Window
from tethercache.rollout import Plan

SMALL = "tethercache:sink=2,memory=3,recent=4"


def seen(policy: Policy, bank: Bank, pass_: Pass) -> list[int]:
    """The frames that a pass sees, those that are masked left out."""
    view = policy.see(bank, pass_)
    assert isinstance(view, View)
    return shown(view, bank)


def shown(view: View, bank: Bank) -> list[int]:
    slots = bank.slots(0, bank.readable) if view.slots is None else view.slots
    index = slots.index[0].tolist()
    bias = torch.zeros(bank.readable) if view.bias is None else view.bias[0, 0, :, 0]
    return sorted(bank.frame_index[0, slot].item() for slot in index if bias[slot] > -torch.inf)


@pytest.mark.parametrize(
    ("hide", "frames"),
    [
        ("far", [8, 9, 10, 11]),
        ("sink", [2, 3, 4, 8, 9, 10, 11]),
        ("memory", [0, 1, 8, 9, 10, 11]),
        ("near", [0, 1, 2, 3, 4, 9, 10, 11]),
        ("far,newest=7", [2, 3, 4, 8, 9, 10, 11]),
        ("memory,newest=8", [0, 1, 2, 3, 4, 8, 9, 10, 11]),
        ("near,newest=9", [0, 1, 9, 10, 11]),
    ],
)
def test_frames_of_a_role_are_hidden_from_the_context_pass(hide: str, frames: list[int]) -> None:
    policy = POLICIES.parse(f"tethercache:sink=2,memory=3,recent=4 + read-mask:hide={hide}")
    bank = fill(policy, 3, 3)
    assert seen(policy, bank, CONTEXT) == [0, 1, 2, 3, 4, 5]  # six of nine frames
    fill(policy, 3, bank=bank)
    bank.begin(policy.open(bank, 3), torch.arange(9, 12)[None])  # 5, 6 and 7 are hidden
    assert seen(policy, bank, CONTEXT) == frames
    assert seen(policy, bank, Pass(PassKind.DENOISING, 0, 4)) == [0, 1, 2, 3, 4, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("settings", "masked"),
    [
        ("passes=all", {*itertools.product(range(5), (0, 1, 2, 3))}),
        ("passes=denoising,first_step=1,last_step=2", {*itertools.product((1, 2), range(4))}),
        ("passes=denoising,first_step=-1,first_layer=0.5", {(3, 2), (3, 3)}),
        ("passes=all,last_step=-4,last_layer=0.25", {(0, 0), (4, 0)}),
        ("last_layer=0.5", {(4, 0), (4, 1)}),
        ("passes=denoising,first_step=3,last_step=1", set()),
    ],
)
def test_a_mask_holds_in_a_band_of_steps_and_layers(
    settings: str, masked: set[tuple[int, int]]
) -> None:
    policy = POLICIES.parse(f"fifo:window=6 + read-mask:newest=4,{settings}")
    bank = fill(policy, 3, 3)
    for step, layer in itertools.product(range(5), range(4)):
        kind = PassKind.CONTEXT if step == 4 else PassKind.DENOISING
        near = seen(policy, bank, Pass(kind, step, 4, layer, 4)) == [2, 3, 4, 5]
        assert near == ((step, layer) in masked)


def test_where_the_number_of_steps_is_unknown_no_step_is_near_the_end() -> None:
    for settings, masked in (("first_step=-1", False), ("first_step=1", True)):
        policy = POLICIES.parse(f"fifo:window=6 + read-mask:passes=denoising,newest=3,{settings}")
        found = seen(policy, fill(policy, 3, 3), Pass(PassKind.DENOISING, 2))
        assert found == ([3, 4, 5] if masked else [*range(6)])


def test_masks_add_up_to_any_other() -> None:
    late = POLICIES.parse("sink:window=9 + late-far:newest=4")
    masks = POLICIES.parse(
        "sink:window=9 + read-mask:newest=4"
        " + read-mask:newest=4,passes=denoising,last_step=-2"
        " + read-mask:newest=4,passes=denoising,last_layer=0.66"
    )
    bank = fill(late, 3, 3, 3, 3)
    for step, layer in itertools.product(range(5), range(0, 30, 5)):
        kind = PassKind.CONTEXT if step == 4 else PassKind.DENOISING
        pass_ = Pass(kind, step, 4, layer, 30)
        assert seen(masks, bank, pass_) == seen(late, bank, pass_)


def test_a_mask_without_settings_is_commit_read_to_the_bit() -> None:
    mask, read = (
        latents_of(POLICIES.parse(f"{SMALL} + {name}"), Plan(21))
        for name in ("read-mask", "commit-read")
    )
    assert torch.equal(mask, read)


def test_hiding_before_and_after_another_wrapper_is_the_same() -> None:
    # slots are left out where all are seen, and masked where another wrapper has chosen some
    first, last = (
        latents_of(POLICIES.parse(f"{SMALL} + {spec}"), Plan(21))
        for spec in (
            "read-mask:hide=sink,passes=all + recency",
            "recency + read-mask:hide=sink,passes=all",
        )
    )
    torch.testing.assert_close(first, last, atol=1e-5, rtol=1e-5)
    masked = POLICIES.parse(f"{SMALL} + commit-read:newest=8 + read-mask:hide=memory,newest=4")
    bank = fill(masked, 3, 3, 3)
    assert seen(masked, bank, CONTEXT) == [1, 5, 6, 7, 8]


def test_a_read_that_would_see_nothing_stays_as_it_is() -> None:
    policy = POLICIES.parse(
        "anchor:sink=1,window=9,anchors=2,every=2 + read-mask:hide=far,newest=3,passes=all"
    )
    bank = fill(policy, 3, 3, 3, 3)
    bank.grid = (1, TOKENS)
    for forgotten in (False, True):
        both = policy.see(bank, Pass(PassKind.DENOISING, 0, 4))
        assert isinstance(both, Fused)
        local, anchors = both.views
        assert shown(local, bank) == [9, 10, 11]
        assert shown(anchors, bank) == [1, 3]
        policy.on(bank, Forget(0, 1))
        assert forgotten or bank.any_forgotten


def test_a_closed_gate_leaves_a_read_of_far_frames_alone() -> None:
    policy = POLICIES.parse(
        "anchor:sink=1,window=9,anchors=2,every=2 + dysink-gate:threshold=0 + recency"
    )
    bank = fill(policy, 3, 3, 3, 3, frame=lambda i: constant(-i))  # the first frames are preferred
    bank.query, bank.grid = torch.ones(1, 3 * TOKENS, 1, CHANNELS), (1, TOKENS)
    both = policy.see(bank, Pass(PassKind.DENOISING, 0, 4))
    assert isinstance(both, Fused)
    # of nine frames six are recent, as three of the window are sink and anchors
    assert [shown(view, bank) for view in both.views] == [[6, 7, 8, 9, 10, 11], [1, 3]]


def test_two_masks_do_not_leave_nothing_together() -> None:
    policy = POLICIES.parse(
        "anchor:sink=1,window=9,anchors=2,every=2"
        " + read-mask:hide=sink,passes=all + read-mask:hide=memory,newest=3,passes=all"
    )
    bank = fill(policy, 3, 3, 3, 3)
    bank.grid = (1, TOKENS)
    both = policy.see(bank, Pass(PassKind.DENOISING, 0, 4))
    assert isinstance(both, Fused)
    assert [shown(view, bank) for view in both.views] == [[9, 10, 11], [1, 3]]


def test_the_sink_is_near_for_what_it_is_and_not_for_its_place_in_a_view() -> None:
    policy = POLICIES.parse("sink:window=9 + commit-read:newest=6 + far-read:newest=3,sink=near")
    bank = fill(policy, 3, 3, 3, 3)  # the inner wrapper leaves 6 to 11, none of the sink
    assert seen(policy, bank, CONTEXT) == [9, 10, 11]


def test_a_window_that_makes_room_in_advance_is_narrowed_too() -> None:
    policy = POLICIES.parse(
        "deep-forcing:sink=1,window=9,compressed=4,recent=2 + commit-read:newest=3"
    )
    bank = fill(policy, 3, 3)
    assert slots_seen(policy, bank, CONTEXT) is None
    fill(policy, 3, 3, bank=bank)
    assert bank.readable == 7  # nine were compressed to four, and three have come
    assert slots_seen(policy, bank, CONTEXT) == [9, 10, 11]
    policy.on(bank, Cut())
    assert slots_seen(policy, bank, CONTEXT) is None


@pytest.mark.parametrize(
    ("gap", "places"), [(1, range(7)), (2, [0, 1, 3, 5, 6, 7, 8]), (9, [0, 1, 8, 10, 11, 12, 13])]
)
def test_frames_keep_their_distances_but_for_long_gaps(gap: int, places: list[int]) -> None:
    policy = POLICIES.parse(f"tethercache:sink=2,memory=1,recent=4 + shifted:gap={gap}")
    bank = fill(policy, 3, 4, frame=lambda i: constant(-i))
    bank.keep(bank.slots(0, 2) + bank.slots(3, 7))
    # a memory of frame 8 between a sink of 0 and 1 and the newest, 10 to 13
    bank.take(1)
    bank.marks[0, 0, :7] = torch.tensor([11, 0, 13, 8, 10, 1, 12])
    bank._forget_order()
    order = bank.frame_index[0, :7].argsort()
    assert policy.place(bank)[0, order].tolist() == [*places]


def test_a_gap_of_one_is_relative_and_a_long_one_absolute() -> None:
    plan = Plan(24)
    relative = latents_of(POLICIES.parse(SMALL), plan)
    assert torch.equal(latents_of(POLICIES.parse(f"{SMALL} + shifted:gap=1"), plan), relative)
    absolute, shifted, spread = (
        latents_of(POLICIES.parse(spec), plan)
        for spec in (
            "sink:sink=1,window=9,positions=absolute",
            "sink:sink=1,window=9 + shifted:gap=100",
            "sink:sink=1,window=9 + shifted",
        )
    )
    torch.testing.assert_close(shifted, absolute, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(spread, absolute, atol=1e-3)


def test_what_jumps_behind_a_cut_stands_as_far_away_as_elsewhere() -> None:
    policy = POLICIES.parse("sink:sink=1,window=9 + shifted:gap=3")
    bank = fill(policy, 3, 3, 3, 3)
    policy.on(bank, Cut(newest=2, place=45))
    fill(policy, 3, bank=bank)
    assert policy.place(bank)[0].tolist() == [0, 3, 4, 47, 48, 49]
    assert bank.age()[0].tolist() == [0, 1, 2, 45, 46, 47]


@dataclass(frozen=True)
class Turned(Window):
    """Keys at global indices, the sink turned by so much that it stands before the window."""

    def place(self, bank: Bank) -> Tensor:
        index = bank.index()
        if bank.readable <= self.sink:
            return index
        oldest = index[:, self.sink :].amin(dim=1, keepdim=True)
        place = index.clone()
        place[:, : self.sink] += oldest - self.sink
        return place


def test_turning_a_group_to_stand_next_to_another_is_relative_positions() -> None:
    turned, relative = (latents_of(kind(2, 9), Plan(30)) for kind in (Turned, Window))
    torch.testing.assert_close(turned, relative, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sink + read-mask:hide=all", r"`hide` \(all\) must be one of: far, sink, memory, near"),
        ("sink + read-mask:passes=none", r"`passes` \(none\) must be one of: context, denoising"),
        ("sink + read-mask:last_layer=-1", r"`last_layer` \(-1.0\) must be a finite number"),
        ("sink + shifted:gap=0", r"`gap` \(0\) must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICIES.parse(spec)


def test_a_mask_must_leave_the_chunk_whole() -> None:
    with pytest.raises(ValueError, match=r"`newest` \(2\) must be at least the chunk \(3\)"):
        POLICIES.parse("sink + read-mask:newest=2").check_chunk(0, 3)
