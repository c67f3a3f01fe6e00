"""Commit-read and the EMA sink against decisions computed by hand, on banks of constant frames."""

from __future__ import annotations

import pytest
import torch

from tests.policies.banks import CONTEXT, DENOISING, fill, seen
from tests.policies.runs import latents_of
from tethercache.policies import POLICIES
from tethercache.rollout import Plan


def test_the_context_pass_reads_the_newest_frames_once_the_cache_is_full() -> None:
    policy = POLICIES.parse("sink:window=9 + commit-read:newest=4")
    bank = fill(policy, 3, 3)
    assert seen(policy, bank, CONTEXT) is None  # six of nine frames
    fill(policy, 3, 3, bank=bank)
    assert bank.frame_index[0].tolist() == [0, 1, 2, 9, 10, 11, 6, 7, 8]
    assert seen(policy, bank, CONTEXT) == [8, 9, 10, 11]
    assert seen(policy, bank, DENOISING) is None


def test_commit_read_takes_the_recent_region_where_no_number_is_given() -> None:
    policy = POLICIES.parse("tethercache:sink=1,memory=4,recent=4 + commit-read")
    bank = fill(policy, 3, 3, 3, 3)
    assert seen(policy, bank, CONTEXT) == [8, 9, 10, 11]
    window = POLICIES.parse("sink:sink=3,window=9 + commit-read")
    assert seen(window, fill(window, 3, 3, 3, 3), CONTEXT) == [6, 7, 8, 9, 10, 11]


def test_commit_read_must_see_its_own_chunk() -> None:
    policy = POLICIES.parse("sink + commit-read:newest=2")
    with pytest.raises(ValueError, match=r"`newest` \(2\) must be at least the chunk \(3\)"):
        policy.check_chunk(0, 3)


def test_reading_less_in_the_context_pass_changes_what_comes_after_it_alone() -> None:
    base, narrow = (
        latents_of(POLICIES.parse(spec), Plan(18))
        for spec in ("fifo:window=12", "fifo:window=12 + commit-read:newest=3")
    )
    # the context pass of the fourth chunk is the first with a full cache
    assert torch.equal(base[:, :, :12], narrow[:, :, :12])
    assert not torch.allclose(base[:, :, 12:], narrow[:, :, 12:], atol=1e-3)


def test_two_narrow_reads_see_what_both_allow() -> None:
    policy = POLICIES.parse("fifo:window=9 + commit-read:newest=6 + commit-read:newest=4")
    assert seen(policy, fill(policy, 3, 3, 3), CONTEXT) == [5, 6, 7, 8]


def test_the_sink_absorbs_what_leaves_position_by_position() -> None:
    policy = POLICIES.parse("ema-sink:sink=3,window=9,alpha=0.75")
    bank = fill(policy, 3, 3, 3, 3)  # frames 3, 4, 5 have left
    assert bank.frame_index[0].tolist() == [0, 1, 2, 9, 10, 11, 6, 7, 8]
    # 0.75 x 0 + 0.25 x 3, 0.75 x 1 + 0.25 x 4, 0.75 x 2 + 0.25 x 5
    assert bank.key[0, :3, 0, 0, 0].tolist() == [0.75, 1.75, 2.75]
    assert bank.value[0, :3, 1, 0, 5].tolist() == [0.75, 1.75, 2.75]
    assert bank.key[0, 3:, 0, 0, 0].tolist() == [9, 10, 11, 6, 7, 8]


def test_sink_frames_take_turns_where_numbers_differ() -> None:
    policy = POLICIES.parse("ema-sink:sink=3,window=10,alpha=0.5")
    bank = fill(policy, 3, 3, 3, 3)  # the window of ten has lost two frames, 3 and 4
    assert bank.key[0, :3, 0, 0, 0].tolist() == [1.5, 2.5, 2]
    fill(policy, 3, bank=bank)  # 5, 6 and 7 leave: the third sink frame, then the first two
    assert bank.key[0, :3, 0, 0, 0].tolist() == [3.75, 4.75, 3.5]


def test_a_chunk_larger_than_the_sink_is_absorbed_in_rounds() -> None:
    policy = POLICIES.parse("ema-sink:sink=2,window=5,alpha=0.5")
    bank = fill(policy, 2, 3, 3)  # 2, 3 and 4 leave
    # frame 0 absorbs 2, then 4; frame 1 absorbs 3
    assert bank.key[0, :2, 0, 0, 0].tolist() == [2.5, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ema-sink:sink=0", r"`sink` \(0\) must be a whole number"),
        ("ema-sink:alpha=1.5", r"`alpha` \(1.5\) must be a finite number"),
        ("ema-sink:alpha=nan", r"`alpha` \(nan\) must be a finite number"),
        ("fifo + commit-read:newest=-1", r"`newest` \(-1\) must be a whole number"),
        ("commit-read", "`commit-read` changes another one: `NAME . commit-read`"),
        ("fifo + sink", "`sink` stands alone: `sink` must come first"),
        ("fifo +", "unknown policy ``"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICIES.parse(spec)
