"""What changes over time: another prompt (soft, recache, cut), other noise, another policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.policies.runs import LATENT_SIZE, STEPS, TRANSFORMER, prompt
from tests.policies.test_contract import SPECS
from tethercache.backbones import new_session
from tethercache.cache import Policy
from tethercache.policies import POLICIES, as_policy
from tethercache.rollout import Action, CounterNoise, Plan, Rollout

NEW = prompt(seed=8)
EARLY, LATE = 3, 9  # chunks: before a budget of 21 is full, and after
PLAN = Plan(48)
PLACES = [
    pytest.param(how, chunk, marks=() if chunk == LATE and how != "soft" else pytest.mark.slow)
    for how, chunk in itertools.product(("soft", "recache", "cut"), (EARLY, LATE))
]


def begin(
    policy: Policy | str,
    actions: Mapping[int, Sequence[Action]] | None = None,
    plan: Plan = PLAN,
    *,
    samples: Sequence[int] = (0,),
    prompts: Tensor | None = None,
    noise: Any = None,
    keep_rotated: bool = True,
    prefix: Tensor | None = None,
) -> Rollout:
    session = new_session(
        TRANSFORMER, as_policy(policy), chunk_size=plan.chunk_size, keep_rotated=keep_rotated
    )
    embeds = prompt().expand(len(samples), -1, -1) if prompts is None else prompts
    return Rollout(
        TRANSFORMER,
        session,
        plan,
        STEPS,
        noise or CounterNoise(0, samples),
        embeds,
        latent_size=LATENT_SIZE,
        prefix=prefix,
        actions=actions,
    )


def changed(how: str, chunk: int) -> dict[int, list[Action]]:
    return {chunk: [Action(NEW, how)]}


@pytest.fixture(scope="module")
def plain() -> dict[str, list[Tensor]]:
    """What policies make without any change, once each."""
    return {}


@pytest.mark.parametrize(("how", "chunk"), PLACES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_change_leaves_what_was_before_and_holds_from_its_chunk_on(
    spec: str, how: str, chunk: int, plain: dict[str, list[Tensor]]
) -> None:
    before = plain.setdefault(spec, list(begin(spec)))
    after = list(begin(spec, changed(how, chunk)))
    assert all(map(torch.equal, before[:chunk], after[:chunk]))
    assert not any(map(torch.equal, before[chunk:], after[chunk:]))
    assert all(latents.isfinite().all() for latents in after)
    on_read = list(begin(spec, changed(how, chunk), keep_rotated=False))
    assert all(map(torch.equal, on_read, after))


@pytest.mark.parametrize(("how", "chunk"), PLACES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_state_saved_around_a_change_goes_on_bit_for_bit(spec: str, how: str, chunk: int) -> None:
    actions = changed(how, chunk)
    whole, rollout = list(begin(spec, actions)), begin(spec, actions)
    for number in range(chunk + 2):
        if number >= chunk - 1:
            other = begin(spec, actions)
            other.load_state_dict(rollout.state_dict())
            assert all(map(torch.equal, other, whole[number:]))
        next(rollout)


@pytest.mark.parametrize("how", ["recache", "cut"])
@pytest.mark.parametrize(
    "spec", ["fifo", "sink", "tethercache", "ema-sink", "tethercache + commit-read"]
)
def test_in_a_batch_each_sample_changes_as_if_it_were_alone(spec: str, how: str) -> None:
    prompts = prompt(batch=2)
    new = prompt(batch=2, seed=8)
    together = torch.cat(
        list(begin(spec, {LATE: [Action(new, how)]}, samples=(0, 1), prompts=prompts)), 2
    )
    for i in range(2):
        one = slice(i, i + 1)
        actions = {LATE: [Action(new[one], how)]}
        alone = torch.cat(list(begin(spec, actions, samples=(i,), prompts=prompts[one])), 2)
        torch.testing.assert_close(together[one], alone, atol=5e-4, rtol=1e-3)


class Later:
    """Noise of a rollout whose first chunks are missing."""

    def __init__(self, missing: int) -> None:
        self._missing = missing

    def __call__(self, chunk: int, draw: int, shape: tuple[int, ...]) -> Tensor:
        return CounterNoise(0)(chunk + self._missing, draw, shape)


@pytest.mark.parametrize(
    ("spec", "chunk", "frames"),
    [
        ("fifo:window=12", 3, range(9)),  # all there is so far
        ("fifo:window=12", 9, range(15, 27)),
        ("sink:sink=3,window=12", 9, (0, 1, 2, *range(18, 27))),
        ("sink", 5, range(15)),
        ("tethercache", 5, range(15)),  # nothing was recalled yet
    ],
)
def test_recache_equals_fresh_caches_that_have_read_the_frames_under_the_new_prompt(
    spec: str, chunk: int, frames: Sequence[int]
) -> None:
    ours = list(begin(spec, changed("recache", chunk)))
    latents = torch.cat(ours, dim=2)
    # the oracle: a video of another prompt that starts with a clip, which are those frames
    prefix = latents[:, :, list(frames)]
    plan = Plan(len(frames) + 48 - 3 * chunk, prefix=len(frames))
    oracle = list(begin(spec, plan=plan, prompts=NEW, noise=Later(chunk), prefix=prefix))
    for mine, theirs in zip(ours[chunk:], oracle[len(frames) // 3 :], strict=True):
        assert torch.equal(mine, theirs)


def test_recache_reads_what_most_layers_remember_and_keeps_pins() -> None:
    rollout = begin("tethercache:sink=3,memory=5,recent=4", {9: [Action(pin=(25, 27))]})
    for _ in range(12):
        next(rollout)
    before = [
        set(bank.frame_index[0, : bank.readable].tolist()) for bank in rollout.session.caches()
    ]
    rollout.switch(NEW, "recache")
    after = [
        set(bank.frame_index[0, : bank.readable].tolist()) for bank in rollout.session.caches()
    ]
    assert len(after[0]) == 12
    assert after[0] == after[1]
    common = set.intersection(*before)
    assert common <= after[0] <= set.union(*before)
    for bank in rollout.session.caches():
        pinned = bank.frame_index[0, bank.marks[2, 0] == 1].tolist()
        assert set(pinned) == {25, 26} <= common
    assert rollout.session.committed() == 36
    assert next(rollout).isfinite().all()


@pytest.mark.parametrize(
    "spec", ["fifo", "sink", "tethercache", "tethercache:sink=1,memory=16,recent=4"]
)
@pytest.mark.parametrize("chunk", [EARLY, LATE])
def test_a_cut_equals_its_card(spec: str, chunk: int) -> None:
    """Sink and the newest two stay; the first chunk behind the cut stands at 45 to 47."""
    policy = as_policy(spec)
    rollout = begin(policy, changed("cut", chunk))
    for _ in range(chunk + 1):
        next(rollout)
    kept = [*range(policy.sink_size), 3 * chunk - 2, 3 * chunk - 1]
    chunk_frames = [3 * chunk + i for i in range(3)]
    for bank in rollout.session.caches():
        index = bank.frame_index[0, : bank.readable]
        order = index.argsort()
        assert index[order].tolist() == kept + chunk_frames
        assert bank.position[0, order].tolist() == [*range(len(kept)), 45, 46, 47]
    next(rollout)
    for bank in rollout.session.caches():
        position = bank.position[0].sort().values
        assert position.tolist() == list(range(len(kept) + 6))  # together again
    list(rollout)


def test_noise_and_policy_change_and_are_those_in_force_after_a_state_is_loaded() -> None:
    spec = "tethercache:sink=3,memory=5,recent=4"
    stronger = as_policy(f"{spec},tau=0.9")
    actions = {4: [Action(noise=CounterNoise(5))], 6: [Action(policy=stronger)]}
    plain, whole = list(begin(spec)), list(begin(spec, actions))
    assert all(map(torch.equal, plain[:4], whole[:4]))
    assert not torch.equal(plain[4], whole[4])
    rollout = begin(spec, actions)
    for number in range(10):
        other = begin(spec, actions)
        other.load_state_dict(rollout.state_dict())
        assert all(map(torch.equal, other, whole[number:]))
        next(rollout)
    with pytest.raises(ValueError, match="same sizes"):
        list(begin(spec, {2: [Action(policy=as_policy("fifo"))]}))


def test_an_action_can_be_added_on_the_way() -> None:
    whole = list(begin("sink", {5: [Action(NEW, "recache"), Action(noise=CounterNoise(5))]}))
    rollout = begin("sink")
    made = [next(rollout) for _ in range(3)]
    rollout.act(5, Action(NEW, "recache"))
    rollout.act(5, Action(noise=CounterNoise(5)))
    made += [next(rollout) for _ in range(4)]
    state = rollout.state_dict()
    made += list(rollout)
    assert all(map(torch.equal, made, whole))
    rollout.load_state_dict(state)
    assert all(map(torch.equal, rollout, whole[7:]))
    with pytest.raises(ValueError, match="chunk"):
        rollout.act(2, Action(NEW))


def test_pinned_frames_stay_and_forgotten_ones_are_not_seen() -> None:
    spec = "sink:sink=3,window=12"
    rollout = begin(spec, {4: [Action(pin=(5, 8))]})
    for _ in range(12):
        next(rollout)
    for bank in rollout.session.caches():
        assert {5, 6, 7} <= set(bank.frame_index[0].tolist())
    with pytest.raises(ValueError, match="stop"):
        rollout.pin(30, 40)
    forgetful = list(begin(spec, {4: [Action(forget=(6, 8))]}))
    plain = list(begin(spec))
    assert all(map(torch.equal, forgetful[:4], plain[:4]))
    assert not torch.equal(forgetful[4], plain[4])


def test_recache_reads_no_forgotten_frame_and_counts_on_from_the_newest() -> None:
    """Also where the newest frames are forgotten, and the sink."""
    rollout = begin("tethercache:sink=3,memory=5,recent=4", {6: [Action(forget=(0, 2))]})
    for _ in range(9):
        next(rollout)
    rollout.forget(25, 27)
    rollout.switch(NEW, "recache")
    for bank in rollout.session.caches():
        index = set(bank.frame_index[0, : bank.readable].tolist())
        assert not index & {0, 1, 25, 26}
        assert 24 in index
    next(rollout)
    for bank in rollout.session.caches():
        assert bank.frame_index[0, bank.current.index[0]].tolist() == [27, 28, 29]
    assert all(latents.isfinite().all() for latents in rollout)


def test_where_all_is_forgotten_nothing_is_read_again() -> None:
    rollout = begin("sink:sink=1,window=6")
    for _ in range(4):
        next(rollout)
    rollout.forget(0, 12)
    rollout.switch(NEW, "recache")
    assert all(latents.isfinite().all() for latents in rollout)


@pytest.mark.parametrize("how", ["recache", "cut"])
def test_with_absolute_positions_keys_rotated_on_read_give_the_same(how: str) -> None:
    """Also where a state goes on that was saved behind the change."""
    spec, plan = "sink:sink=3,window=12,positions=absolute", Plan(27)
    kept = begin(spec, changed(how, 5), plan)
    read = begin(spec, changed(how, 5), plan, keep_rotated=False)
    for _ in range(6):
        torch.testing.assert_close(next(kept), next(read), rtol=0, atol=0)
    other = begin(spec, changed(how, 5), plan, keep_rotated=False)
    other.load_state_dict(kept.state_dict())
    for mine, theirs, loaded in zip(kept, read, other, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(loaded, theirs)


def test_latents_are_kept_for_frames_that_are_remembered_and_for_few_others() -> None:
    rollout = begin("sink:sink=3,window=12", plan=Plan(150))
    most = 0
    for _ in rollout:
        index = rollout.state_dict()["latents"]["index"]
        held = rollout.session.caches()[0].frame_index
        assert set(held.flatten().tolist()) <= {-1, *index}
        most = max(most, len(index))
    assert most < 70


def test_every_registered_policy_is_tried() -> None:
    assert all(any(name in spec for spec in SPECS) for name in POLICIES)
