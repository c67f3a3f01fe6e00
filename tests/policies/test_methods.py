"""The field's methods against decisions computed by hand, on banks of toy frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.policies.banks import CHANNELS, CONTEXT, DENOISING, TOKENS, constant, fill, held, seen
from tethercache.cache import Bank, Cut, Forget, Fused, Pass, PassKind, Pin, Switch, View
from tethercache.policies import POLICIES
from tethercache.policies.async_admission import AsyncAdmission
from tethercache.policies.random_memory import lots


def test_infinity_rope_is_flushed_where_the_prompt_changes() -> None:
    policy = POLICIES.parse("infinity-rope")
    bank = fill(policy, 3, 3, 3)
    assert list(held(bank)) == [0, 4, 5, 6, 7, 8]
    policy.on(bank, Switch())
    assert list(held(bank)) == [0, 7, 8]
    assert bank.jumping == 0
    assert list(held(fill(policy, 3, 3, bank=bank))) == [0, 10, 11, 12, 13, 14]


def test_infinity_rope_stands_far_away_behind_a_cut() -> None:
    policy = POLICIES.parse("infinity-rope")
    bank = fill(policy, 3, 3)
    policy.on(bank, Cut(newest=2, place=45))
    fill(policy, 3, bank=bank)
    assert policy.place(bank)[0].tolist() == [0, 1, 2, 45, 46, 47]
    fill(policy, 3, bank=bank)
    assert sorted(policy.place(bank)[0].tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("step", "gamma"), [(0, 0.2), (3, 1.6)])
def test_recency_leans_less_towards_the_near_past_with_every_step(step: int, gamma: float) -> None:
    policy = POLICIES.parse("sink:window=18 + recency")
    bank = fill(policy, 3, 3, 3, 3, 3, 3, 3, 3)
    view = policy.see(bank, Pass(PassKind.DENOISING, step))
    assert isinstance(view, View)
    assert view.bias is not None
    bias = dict(zip(bank.frame_index[0].tolist(), view.bias.flatten().tolist(), strict=True))
    # chunks 21-23, 18-20, 15-17, 12-14 and 9-11, of distances 0 to 4
    for first, delta in ((0, 0), (21, 0), (18, 0), (15, 0.25), (12, 0.5), (9, 0.75)):
        for frame in range(first, first + 3):
            assert bias[frame] == pytest.approx(-4 * delta**gamma)
    assert policy.see(bank, CONTEXT) == View()


def test_far_frames_are_seen_by_late_layers_in_the_last_step_only() -> None:
    policy = POLICIES.parse("sink:window=9 + late-far")
    bank, near = fill(policy, 3, 3, 3, 3), [6, 7, 8, 9, 10, 11]
    late = {"layer": 20, "layers": 30}
    assert seen(policy, bank, Pass(PassKind.DENOISING, 3, 4, **late)) is None
    assert seen(policy, bank, Pass(PassKind.DENOISING, 3, 4, layer=19, layers=30)) == near
    assert seen(policy, bank, Pass(PassKind.DENOISING, 2, 4, **late)) == near
    assert seen(policy, bank, Pass(PassKind.DENOISING, 3, None, **late)) == near
    assert seen(policy, bank, Pass(PassKind.CONTEXT, 4, 4, **late)) == near
    assert seen(policy, fill(policy, 3, 3), DENOISING) is None


@pytest.mark.parametrize(
    ("settings", "far"),
    [
        ("", {(0, 0), (1, 0), (2, 0), (3, 0), (0, 2), (1, 2), (2, 2), (3, 2)}),
        ("first_step=1,last_step=2,last_layer=0.5", {(1, 0), (2, 0)}),
        ("first_step=-2,last_step=-2,first_layer=0.5", {(2, 2)}),
        ("last_step=0,context=far", {(0, 0), (0, 2), (4, 0), (4, 2)}),
    ],
)
def test_far_reads_are_bands_of_steps_and_layers(settings: str, far: set[tuple[int, int]]) -> None:
    policy = POLICIES.parse(f"fifo:window=6 + far-read:newest=4,{settings}")
    bank = fill(policy, 3, 3)
    for step in range(5):
        for layer in (0, 2):
            kind = PassKind.CONTEXT if step == 4 else PassKind.DENOISING
            frames = seen(policy, bank, Pass(kind, step, 4, layer, 4))
            assert frames == (None if (step, layer) in far else [2, 3, 4, 5])


def test_the_sink_may_be_near() -> None:
    policy = POLICIES.parse("sink:window=9 + far-read:newest=4,sink=near")
    assert seen(policy, fill(policy, 3, 3, 3, 3), CONTEXT) == [0, 1, 2, 8, 9, 10, 11]
    inside = POLICIES.parse("sink:window=9 + commit-read:newest=4 + far-read:newest=3,sink=near")
    assert seen(inside, fill(inside, 3, 3, 3), CONTEXT) == [5, 6, 7, 8]


def _mix(number: int) -> int:
    number &= 0xFFFFFFFF
    number = (number ^ number >> 16) * 0x7FEB352D & 0xFFFFFFFF
    number = (number ^ number >> 15) * 0x846CA68B & 0xFFFFFFFF
    return number ^ number >> 16


@pytest.mark.parametrize("draw", ["anew", "once"])
@pytest.mark.parametrize("layer", [0, 3])
def test_random_memory_draws_lots_by_seed_layer_and_frame(draw: str, layer: int) -> None:
    policy = POLICIES.parse(f"random:sink=1,memory=4,recent=4,seed=5,tau=0,draw={draw}")
    bank = fill(policy, 3, 3, 3, bank=Bank(9, 3, layer))
    memory, past = {1, 2, 3, 4}, {1, 2, 3, 4}
    for newest in (11, 14, 17, 20):
        fill(policy, 3, bank=bank)
        candidates = memory | {newest - 6, newest - 5, newest - 4}
        past |= candidates
        counter = _mix(5) + layer
        counter = _mix(counter) + newest if draw == "anew" else counter
        lot = {frame: _mix(_mix(counter) + frame) >> 8 for frame in candidates | past}
        memory = set(sorted(candidates, key=lot.__getitem__)[-4:])
        assert set(held(bank)) == {0} | memory | set(range(newest - 3, newest + 1))
        if draw == "once":
            assert memory == set(sorted(past, key=lot.__getitem__)[-4:])


def test_lots_are_spread_evenly() -> None:
    drawn = lots(torch.arange(20000), torch.zeros(1, dtype=torch.int64))
    assert drawn.histc(10, 0, 1).min() > 1800
    neighbours = torch.stack((drawn[:-1], drawn[1:]))
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.03


def test_memrope_keeps_two_means_of_what_has_left() -> None:
    policy = POLICIES.parse("memrope:long=0.25,short=0.5")
    bank = fill(policy, 3, 3, 3, 3, 3)  # 3 to 7 have left, whose mean is 5
    assert held(bank) == {0: 0, 1: 1, 2: 2, 3: 5, 4: 5} | {i: i for i in range(8, 15)}
    fill(policy, 3, bank=bank)  # 8, 9, 10
    assert held(bank) == {0: 0, 1: 1, 2: 2, 3: 6, 4: 7} | {i: i for i in range(11, 18)}
    assert bank.value[0, 3:5, :, 0, 5].tolist() == [[6, 6], [7, 7]]


def test_memrope_begins_anew_behind_a_cut() -> None:
    policy = POLICIES.parse("memrope:sink=1,window=6")
    bank = fill(policy, 3, 3, 3)
    policy.on(bank, Cut(newest=1))
    assert held(bank) == {0: 0, 8: 8}
    fill(policy, 3, bank=bank)
    assert held(bank) == {0: 0, 8: 8, 9: 9, 10: 10, 11: 11}
    fill(policy, 3, bank=bank)  # 8, 9 and two more leave
    assert held(bank) == {0: 0, 8: 9.5, 9: 9.5, 12: 12, 13: 13, 14: 14}


def test_memrope_absorbs_nothing_that_was_forgotten_and_no_pinned_frame_is_lost() -> None:
    policy = POLICIES.parse("memrope:sink=1,window=6")
    bank = fill(policy, 3, 3)
    policy.on(bank, Forget(4, 6))
    policy.on(bank, Pin(2, 3))
    fill(policy, 3, bank=bank)  # of 1 to 5, three are left for the mean
    assert held(bank) == {0: 0, 1: 2, 2: 2, 6: 6, 7: 7, 8: 8}
    policy.on(bank, Forget(6, 9))
    fill(policy, 3, bank=bank)
    assert held(bank) == {0: 0, 1: 2, 2: 2, 9: 9, 10: 10, 11: 11}


def test_deep_forcing_keeps_the_tokens_that_the_newest_frames_ask_for() -> None:
    policy = POLICIES.parse("deep-forcing:sink=1,window=8,compressed=5,recent=2")

    def frame(index: int) -> Tensor:  # the second token asks for the contrary
        return torch.tensor([1.0, -1.0])[:, None, None].expand(TOKENS, 1, CHANNELS) * index

    bank = fill(policy, 3, 3, 3, frame=frame)
    # of the six tokens 1, -1, 2, -2, 3, -3 the four largest, in the order of time
    places = {index: slot for slot, index in enumerate(bank.frame_index[0].tolist())}
    assert sorted(places) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert bank.key[0, places[1], :, 0, 0].tolist() == [1, -1]
    assert bank.key[0, places[2], :, 0, 0].tolist() == [2, 3]
    assert bank.cells()[0, places[2]].tolist() == [0, 0]
    assert bank.cells()[0, places[8]].tolist() == [0, 1]
    fill(policy, 3, bank=bank, frame=frame)  # of 1, -1, 2, 3, 4, -4, 5, -5, 6, -6
    places = {index: slot for slot, index in enumerate(bank.frame_index[0].tolist())}
    assert sorted(places) == [0, 1, 2, 7, 8, 9, 10, 11]
    assert bank.key[0, places[1], :, 0, 0].tolist() == [3, 4]
    assert bank.key[0, places[2], :, 0, 0].tolist() == [5, 6]


def test_deep_forcing_leaves_gaps_to_nobody() -> None:
    policy = POLICIES.parse("deep-forcing:sink=1,window=9,compressed=4,recent=2")
    bank = fill(policy, 3, 3, 3, 3)  # nine become four, and three come
    assert bank.readable == 7
    assert held(bank) == {0: 0, 1: 6, 7: 7, 8: 8, 9: 9, 10: 10, 11: 11}


def test_pins_and_forgotten_frames_hold_for_tokens() -> None:
    policy = POLICIES.parse("deep-forcing:sink=1,window=8,compressed=5,recent=2")
    bank = fill(policy, 3, 3)
    policy.on(bank, Pin(1, 2))
    policy.on(bank, Forget(3, 4))
    fill(policy, 3, bank=bank)  # of 1, 2 and 3
    assert held(bank) == {0: 0, 1: 1, 2: 2} | {i: i for i in range(4, 9)}
    fill(policy, 3, bank=bank)  # the pinned tokens stay, and the loudest beside them
    assert held(bank) == {0: 0, 1: 1, 2: 6} | {i: i for i in range(7, 12)}
    assert bank.pinned(bank.oldest(2, since=1, spare_pinned=False)).sum() == 1


@pytest.mark.parametrize(
    ("sign", "memories"), [(1, ([2, 3], [2, 3], [3, 9])), (-1, ([1, 3], [1, 3], [1, 9]))]
)
def test_memflow_lets_go_what_the_prompt_says_least_about(
    sign: int, memories: tuple[list[int], ...]
) -> None:
    policy = POLICIES.parse("memflow:sink=1,memory=2,window=6,interval=2")
    bank = fill(policy, 3, 3)
    bank.text = torch.full((1, 4, 1, CHANNELS), float(sign))
    for memory in memories:
        fill(policy, 3, bank=bank)
        assert list(held(bank))[1:3] == memory


def test_memflow_lets_the_oldest_go_where_the_prompts_keys_are_unknown() -> None:
    policy = POLICIES.parse("memflow:sink=1,memory=2,window=6,interval=1")
    bank = fill(policy, 3, 3, 3, 3, frame=lambda i: constant(-i))
    assert list(held(bank))[1:3] == [3, 6]


@pytest.mark.parametrize(("like_the_sink", "chosen"), [(2, 2), (3, 3)])
def test_relax_reads_what_is_like_the_sink_and_unlike_the_tail(
    like_the_sink: int, chosen: int
) -> None:
    policy = POLICIES.parse("relax:sink=1,window=4,stored=4,candidates=2,penalty=1")

    def frame(index: int) -> Tensor:
        return torch.eye(CHANNELS)[0 if index in (0, like_the_sink) else 1].expand(TOKENS, 1, -1)

    bank = fill(policy, 1, 1, 1, 1, 1, frame=frame)
    assert list(held(bank)) == [0, 2, 3, 4]  # 1 and 2 are stored, and 2 is the later half
    fill(policy, 1, bank=bank, frame=frame)  # 2 against 3, before a tail of 4
    assert list(held(bank)) == [0, chosen, 4, 5]
    other = fill(policy, 1, 1, 1, 1, bank=Bank(4, 4, layer=1, shared=bank.shared))
    fill(policy, 1, bank=other)
    assert other.frame_index[0, 1] == other.frame_index[0, bank.shared["relax.chosen"][0, 0]]


def test_relax_stores_the_newest_of_what_has_left() -> None:
    policy = POLICIES.parse("relax:sink=1,window=5,stored=5")
    bank = fill(policy, *[3] * 6)
    assert sorted(bank.frame_index[0, 5:].tolist()) == [10, 11, 12, 13, 14]
    policy.on(bank, Pin(10, 12))
    fill(policy, 3, bank=bank)
    assert sorted(bank.frame_index[0, 5:].tolist()) == [10, 11, 15, 16, 17]
    assert {10, 11} & set(held(bank))  # and a pinned frame is read


def test_rolling_sink_plays_the_opening_to_and_fro() -> None:
    policy = POLICIES.parse("rolling-sink:window=9,opening=6")
    bank = fill(policy, 3, 3, 3)
    assert held(bank) == {i: i for i in range(9)}
    fill(policy, 3, bank=bank)
    assert held(bank) == {3: 3, 4: 4, 5: 5, 6: 0, 7: 1, 8: 2, 9: 9, 10: 10, 11: 11}
    assert torch.equal(policy.place(bank), bank.frame_index[:, :9])
    fill(policy, 3, 3, bank=bank)
    assert held(bank) == {9: 3, 10: 4, 11: 5, 12: 5, 13: 4, 14: 3, 15: 15, 16: 16, 17: 17}
    fill(policy, 3, 3, bank=bank)
    assert held(bank) == {15: 2, 16: 1, 17: 0, 18: 0, 19: 1, 20: 2, 21: 21, 22: 22, 23: 23}


def test_rolling_sink_spares_pins_and_plays_nothing_forgotten_and_begins_anew_behind_a_cut() -> (
    None
):
    policy = POLICIES.parse("rolling-sink:window=9,opening=6")
    bank = fill(policy, 3, 3, 3)
    policy.on(bank, Forget(1, 2))
    policy.on(bank, Pin(6, 7))
    fill(policy, 3, bank=bank)
    assert held(bank) == {3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 2, 9: 9, 10: 10, 11: 11}
    policy.on(bank, Cut(newest=3))
    fill(policy, 3, 3, bank=bank)
    assert held(bank) == {i: i for i in range(9, 18)}
    fill(policy, 3, bank=bank)
    assert [held(bank)[i] for i in (15, 16, 17)] == [9, 10, 11]


def test_anchors_stay_and_are_read_by_themselves_in_the_first_steps() -> None:
    policy = POLICIES.parse("anchor:sink=1,window=9,anchors=2,every=2")
    bank = fill(policy, 3, 3, 3)
    assert seen(policy, bank, Pass(PassKind.DENOISING, 0)) is None
    fill(policy, 3, bank=bank)
    assert list(held(bank)) == [0, 1, 3, 6, 7, 8, 9, 10, 11]
    local = [0, 6, 7, 8, 9, 10, 11]
    assert seen(policy, bank, CONTEXT) == seen(policy, bank, DENOISING) == local
    fill(policy, 3, bank=bank)
    both = policy.see(bank, Pass(PassKind.DENOISING, 1))
    assert isinstance(both, Fused)
    frames = []
    for view in both.views:
        assert view.slots is not None
        frames.append(sorted(bank.frame_index[0, view.slots.index[0]].tolist()))
    assert frames == [[0, 9, 10, 11, 12, 13, 14], [1, 3]]


def test_low_frequencies_come_from_the_anchors() -> None:
    policy = POLICIES.parse("anchor:sink=1,window=9,anchors=2,every=2,sigma_time=0.5,weight=0.75")
    bank = fill(policy, 3, 3, 3, 3)
    bank.grid = grid = (2, 4)
    both = policy.see(bank, Pass(PassKind.DENOISING, 0))
    assert isinstance(both, Fused)
    generator = torch.Generator().manual_seed(0)
    local, anchored = (torch.randn(2, 24, 2, 3, generator=generator) for _ in range(2))
    waves = [torch.fft.fftfreq(n, dtype=torch.float64) for n in (3, *grid)]
    expected, apart = local.double(), (anchored - local).double().unflatten(1, (3, *grid))
    for t, y, x in torch.cartesian_prod(*waves).tolist():  # a wave at a time, in full
        place = torch.cartesian_prod(*(torch.arange(n).double() for n in (3, *grid)))
        phase = 2 * torch.pi * (place * torch.tensor([t, y, x])).sum(dim=1)
        wave = torch.polar(torch.ones_like(phase), phase)[None, :, None, None]
        share = (apart.flatten(1, 3) * wave.conj()).mean(dim=1, keepdim=True)
        height = torch.exp(torch.tensor(-(t**2) / 0.5 - (y**2 + x**2) / 2 / 0.125**2))
        expected = expected + 0.75 * height * (share * wave).real
    torch.testing.assert_close(both.fuse(local, anchored).double(), expected, atol=1e-5, rtol=1e-5)


def test_forgotten_anchors_say_nothing() -> None:
    policy = POLICIES.parse("anchor:sink=1,window=9,anchors=2,every=2")
    bank = fill(policy, 3, 3, 3, 3)
    bank.grid = (1, TOKENS)
    policy.on(bank, Forget(1, 4))
    both = policy.see(bank, Pass(PassKind.DENOISING, 0))
    assert isinstance(both, Fused)
    local = torch.randn(1, 6, 1, CHANNELS)
    torch.testing.assert_close(both.fuse(local, torch.full_like(local, torch.nan)), local)


@pytest.mark.parametrize(("heads", "closed"), [(3, False), (4, False), (5, True)])
def test_the_gate_closes_where_too_many_heads_prefer_a_far_frame(heads: int, closed: bool) -> None:
    policy = POLICIES.parse("tethercache:sink=1,memory=2,recent=6 + dysink-gate")
    slope = torch.tensor([-1.0] * heads + [1.0] * (5 - heads))[None, :, None]
    bank = Bank(9, 3)
    bank.allocate(torch.zeros(1, 1, TOKENS, 5, CHANNELS))
    fill(policy, 3, 3, bank=bank, frame=lambda i: slope.expand(TOKENS, 5, CHANNELS) * i)
    bank.query = torch.ones(1, 3 * TOKENS, 1, CHANNELS)
    assert policy.see(bank, DENOISING) == View()
    fill(policy, 3, bank=bank, frame=lambda i: slope.expand(TOKENS, 5, CHANNELS) * i)
    bank.query = torch.ones(1, 3 * TOKENS, 1, CHANNELS)
    view = policy.see(bank, DENOISING)
    assert isinstance(view, View)
    assert view.bias is not None
    far = -torch.inf if closed else 0
    assert view.bias.flatten().tolist() == [far] * 3 + [0] * 6


def test_the_gate_has_nothing_to_say_where_nothing_is_far() -> None:
    policy = POLICIES.parse("fifo:window=6 + dysink-gate")
    bank = fill(policy, 3, 3, 3, frame=lambda i: constant(-i))
    bank.query = torch.ones(1, 3 * TOKENS, 1, CHANNELS)
    assert policy.see(bank, DENOISING) == View()


@pytest.mark.parametrize(
    ("settings", "layer", "memory"),
    [
        ("", 0, {2, 4, 5}),  # two of three, the novel ones, for the two oldest
        ("share=0", 0, {1, 2, 4}),
        ("share=1", 0, {3, 4, 5}),
        ("", 1, {0, 1, 2}),  # not its turn
        ("patience=0", 1, {2, 4, 5}),
        ("stagger=1", 1, {2, 4, 5}),
    ],
)
def test_fewer_frames_come_in_at_a_time(settings: str, layer: int, memory: set[int]) -> None:
    policy = POLICIES.parse(f"tethercache:sink=0,memory=3,recent=3 + async-admission:{settings}")
    assert isinstance(policy, AsyncAdmission)
    directions = torch.eye(CHANNELS)[0], torch.eye(CHANNELS)[1]

    def frame(index: int) -> Tensor:  # 4 is unlike the members, 5 is half like them
        key = {4: directions[1], 5: directions[0] + directions[1]}.get(index, directions[0])
        return key.expand(TOKENS, 1, -1)

    bank = fill(policy, 3, 3, bank=Bank(6, 3, layer), frame=frame)
    hidden = bank.hide(bank.slots(3, 6))
    keep = torch.tensor([[False] * 3 + [True] * 3])
    with policy._screening(bank):
        bank.recall(bank.slots(0, 3), hidden, keep)
    assert bank.screen is None
    assert set(bank.frame_index[0, :3].tolist()) == memory


def test_pinned_frames_come_in_and_forgotten_members_make_room() -> None:
    policy = POLICIES.parse("tethercache:sink=0,memory=3,recent=3 + async-admission:share=0")
    bank = fill(policy, 3, 3, bank=Bank(6, 3, layer=1))
    policy.on(bank, Pin(3, 4))
    policy.on(bank, Forget(2, 3))
    hidden = bank.hide(bank.slots(3, 6))
    assert isinstance(policy, AsyncAdmission)
    with policy._screening(bank):
        bank.recall(bank.slots(0, 3), hidden, torch.tensor([[False] * 3 + [True] * 3]))
    assert set(bank.frame_index[0, :3].tolist()) == {0, 1, 3}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("infinity-rope:flush=-1", r"`flush` \(-1\) must be a whole number"),
        ("memrope:long=2", r"`long` \(2.0\) must be a finite number"),
        ("deep-forcing:compressed=13", r"`compressed` \(13\) must be .* at least 14"),
        ("memflow:memory=0", r"`memory` \(0\) must be a whole number of at least 1"),
        ("relax:stored=3", r"`stored` \(3\) must be a whole number of at least 7"),
        ("random:seed=-1", r"`seed` \(-1\) must be a whole number from 0"),
        ("random:draw=twice", r"`draw` \(twice\) must be one of: anew, once"),
        ("rolling-sink:opening=0", r"`opening` \(0\) must be a whole number of at least 1"),
        ("anchor:sigma_time=0", r"`sigma_time` \(0.0\) must be a positive number"),
        ("sink + dysink-gate:threshold=2", r"`threshold` \(2.0\) must be a finite number"),
        ("sink + async-admission:stagger=0", r"`stagger` \(0\) must be a whole number"),
        ("sink + recency:gamma=0", r"`gamma` \(0.0\) must be a positive number"),
        ("sink + far-read:first_layer=2", r"`first_layer` \(2.0\) must be a finite number"),
        ("sink + far-read:context=all", r"`context` \(all\) must be one of: far, near"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICIES.parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memrope:window=7", r"`window` \(7\) must be at least `sink` \(3\) \+ 2 \+ chunk \(3\)"),
        ("deep-forcing:window=18", r"must be at least `compressed` \(16\) \+ chunk \(3\)"),
        ("anchor:every=4", r"must be at least the last anchor \(23\) \+ chunk \(3\)"),
        ("sink + late-far:newest=2", r"`newest` \(2\) must be at least the chunk \(3\)"),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICIES.parse(spec).check_chunk(12, 3)
