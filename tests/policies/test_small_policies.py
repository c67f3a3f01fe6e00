"""Windows, TetherCache, commit-read and the EMA sink against decisions computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.policies.banks import CHANNELS, CONTEXT, DENOISING, TOKENS, constant, fill, held, seen
from tests.policies.runs import latents_of
from tethercache.policies import POLICIES
from tethercache.rollout import Plan


@pytest.mark.parametrize(
    ("spec", "frames", "places"),
    [
        ("fifo:window=6", [6, 7, 8, 9, 10, 11], range(6)),
        ("sink:sink=1,window=6", [0, 7, 8, 9, 10, 11], range(6)),
        ("sink:sink=1,window=7", [0, 6, 7, 8, 9, 10, 11], range(7)),
        ("fifo:window=5,positions=absolute", [7, 8, 9, 10, 11], range(7, 12)),
        ("sink:sink=2,window=5,positions=absolute", [0, 1, 9, 10, 11], [0, 1, 9, 10, 11]),
    ],
)
def test_windows_keep_the_newest_and_the_first(
    spec: str, frames: list[int], places: Sequence[int]
) -> None:
    policy = POLICIES.parse(spec)
    bank = fill(policy, 3, 3, 3, 3)
    assert held(bank) == {frame: frame for frame in frames}
    assert sorted(policy.place(bank)[0].tolist()) == [*places]


WEIGHTS = {1: 1, 2: 4, 3: 3}  # of frames, by which they draw attention; 1 of all others
# with queries of ones, a frame's mass is its weight over the sum of all candidates' weights
LOUD = {frame: math.log(weight) / CHANNELS**0.5 for frame, weight in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("alpha", "memory"),
    [
        # candidates 1 to 5, masses 0.1, 0.4, 0.3, 0.1 and 0.1
        (0, [2, 3]),
        # diversities, with sigma 2.5: 0.732, 0.799, 0.732, 0.799, 0.865;
        # scores 7.42, 8.39, 7.62, 8.09, 8.75
        (10, [2, 5]),
    ],
)
def test_tethercache_recalls_by_attention_and_diversity(alpha: float, memory: list[int]) -> None:
    policy = POLICIES.parse(f"tethercache:sink=1,memory=2,recent=3,alpha={alpha},tau=0")
    bank = fill(policy, 3, 3, 3, frame=lambda i: constant(1) * LOUD.get(i, 0))
    assert [*held(bank)] == [0, *memory, 6, 7, 8]


def test_tethercache_pulls_what_comes_in_to_sink_and_old_memory() -> None:
    policy = POLICIES.parse("tethercache:sink=1,memory=2,recent=3,alpha=0,tau=0.5")

    def frame(index: int) -> Tensor:  # two tokens, 1 left and right of their mean
        apart = torch.tensor([-1.0, 1.0])[:, None, None] * (2 if index == 3 else 1)
        return apart.expand(TOKENS, 1, CHANNELS) + LOUD.get(index, 0)

    bank = fill(policy, 3, 3, 3, frame=frame)
    slots = {index: slot for slot, index in enumerate(bank.frame_index[0, :6].tolist())}
    assert sorted(slots) == [0, 2, 3, 6, 7, 8]
    assert torch.equal(bank.key[0, slots[2]], frame(2))  # a member is left as it was
    # means of 0, 1 and 2: 0, log 1 and log 4, over root 6; their variance joins the 1 of tokens
    means = torch.tensor([0, LOUD[1], LOUD[2]])
    mean, deviation = means.mean(), (1 + means.var(correction=0)).sqrt()
    aligned = 0.5 * frame(3) + 0.5 * (deviation * (frame(3) - LOUD[3]) / 2 + mean)
    for kept in (bank.key, bank.value):
        torch.testing.assert_close(kept[0, slots[3]], aligned, atol=1e-6, rtol=1e-5)


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
