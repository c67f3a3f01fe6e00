"""A video in the making is an object: it takes turns, forks, is saved and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import ROOT
from tests.policies.runs import LATENT_SIZE, STEPS, TRANSFORMER, latents_of, prompt
from tests.policies.test_expressive import SMALL
from tests.states import written_and_read
from tests.toys import toy_transformer
from tethercache.alignment import is_aligned
from tethercache.backbones import SessionError, attach, new_session
from tethercache.cache import Cut, Forget, Pin, Policy
from tethercache.policies import POLICIES, as_policy
from tethercache.rollout import CounterNoise, Plan, Rollout
from tethercache.state import each_tensor, join, split

SPECS = [
    *(name for name in POLICIES if not POLICIES[name].wraps),
    *(f"tethercache + {name}" for name in POLICIES if POLICIES[name].wraps),
    "ema-sink:window=12 + commit-read:newest=6",
]
PLAN = Plan(36, prefix=6)
PREFIX = torch.randn(2, 4, 6, *LATENT_SIZE, generator=torch.Generator().manual_seed(5))
SAVED_AT, SWITCHES = 8, {5: 8, 9: 9}  # chunks, and seeds of the prompts; a cache is full after 7


def begin(
    policy: Policy | str, plan: Plan = PLAN, transformer: Any = TRANSFORMER, **options: Any
) -> Rollout:
    """A rollout of two samples that starts from a prefix."""
    given = {"latent_size": LATENT_SIZE, "prefix": PREFIX[:, :, : plan.prefix]} | options
    if not plan.prefix:
        del given["prefix"]
    session = new_session(transformer, policy, chunk_size=3, keep_rotated=True)
    return Rollout(
        transformer, session, plan, STEPS, CounterNoise(1, (0, 1)), prompt(batch=2), **given
    )


def make(rollout: Rollout, until: int | None = None) -> list[Tensor]:
    """The next chunks, with a change of the prompt in between."""
    made = []
    while rollout.chunks_made < (rollout.plan.num_chunks if until is None else until):
        if rollout.chunks_made in SWITCHES:
            rollout.switch(prompt(batch=2, seed=SWITCHES[rollout.chunks_made]))
        made.append(next(rollout))
    return made


def write(state: Any, folder: Path) -> None:
    """As a snapshot lies on a disk: tensors in one file, the rest in another."""
    tensors, rest = split(state)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(rest))


def read(folder: Path) -> Any:
    rest = json.loads((folder / "state.json").read_text())
    return join(load_file(folder / "state.safetensors"), rest)


def go_on(folder: Path) -> None:
    """In a fresh process: make what is missing of every rollout saved under `folder`."""
    for saved in folder.iterdir():
        rollout = begin(SPECS[int(saved.name)])
        rollout.load_state_dict(read(saved))
        write({"made": make(rollout)}, saved)


def test_a_fresh_process_goes_on_with_the_same_bits_for_every_policy(tmp_path: Path) -> None:
    expected = {}
    for number, spec in enumerate(SPECS):
        rollout, folder = begin(spec), tmp_path / str(number)
        make(rollout, until=SAVED_AT)
        folder.mkdir()
        write(rollout.state_dict(), folder)
        expected[spec] = make(rollout)
    go = f"import pathlib; from {__name__} import go_on; go_on(pathlib.Path({str(tmp_path)!r}))"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", go], env=environment, check=True)
    for number, spec in enumerate(SPECS):
        made = read(tmp_path / str(number))["made"]
        assert len(made) == PLAN.num_chunks - SAVED_AT
        assert all(map(torch.equal, made, expected[spec])), spec


@pytest.mark.parametrize("saved_at", [0, 1, 4, 5, 11])
def test_it_goes_on_from_any_chunk(saved_at: int) -> None:
    """From before the first one, from within the prefix, around a change of the prompt ..."""
    policy = as_policy("tethercache:sink=1,memory=2,recent=3")
    rollout = begin(policy)
    make(rollout, until=saved_at)
    state = rollout.state_dict()
    assert json.dumps(split(state)[1])
    other = begin(policy)
    make(other, until=3)  # forgotten
    other.load_state_dict(state)
    assert all(map(torch.equal, make(other), make(rollout)))
    assert other.chunks_made == PLAN.num_chunks


@pytest.mark.parametrize("policy", SMALL, ids=lambda policy: type(policy).__name__)
def test_what_a_policy_looks_at_is_in_the_state(policy: Policy) -> None:
    """The text's keys, notes for other layers, frames outside the budget."""
    rollout, other = begin(policy), begin(policy)
    make(rollout, until=SAVED_AT)
    other.load_state_dict(written_and_read(rollout.state_dict()))
    assert all(map(torch.equal, make(other), make(rollout)))


def test_a_state_stays_as_it_was_while_the_rollout_goes_on() -> None:
    rollout = begin("sink:window=9,sink=1")
    make(rollout, until=7)
    state = rollout.state_dict()
    before = each_tensor(state, Tensor.clone)
    make(rollout)
    (then, rest), (now, same) = split(before), split(state)
    assert rest == same
    assert all(torch.equal(x, now[name]) for name, x in then.items())


def test_what_is_loaded_is_aligned() -> None:
    """Whatever file it comes from: the last bits of a product may depend on it."""

    def shift(tensor: Tensor) -> Tensor:
        room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
        return room[1:].copy_(tensor.flatten()).view(tensor.shape)

    rollout = begin("ema-sink:window=9")
    make(rollout, until=7)
    other = begin("ema-sink:window=9")
    other.load_state_dict(each_tensor(rollout.state_dict(), shift))
    for bank in other.session.caches():
        assert bank.text is not None
        assert all(map(is_aligned, (bank.frames, bank.rotated, bank.text, *bank.notes.values())))
    assert is_aligned(other.prompt_embeds)


def test_a_fork_equals_its_parent_and_is_independent() -> None:
    parent = begin("tethercache:sink=1,memory=2,recent=3")
    make(parent, until=7)
    same, other = parent.fork(), parent.fork()
    other.switch(prompt(batch=2, seed=11))
    another = parent.fork()
    another.noise = CounterNoise(2, (0, 1))
    theirs, others = list(other), list(another)
    mine = list(parent)
    assert all(map(torch.equal, same, mine))
    assert not torch.equal(theirs[0], mine[0])
    assert not torch.equal(others[0], mine[0])


def test_rollouts_take_turns_on_one_model() -> None:
    specs = ["tethercache:sink=1,memory=2,recent=3", "fifo:window=6", "sink:window=9,sink=2"]
    expected = [list(begin(spec, Plan(12))) for spec in specs]
    rollouts = [begin(spec, Plan(12)) for spec in specs]
    for chunk in range(4):
        for rollout, alone in zip(rollouts, expected, strict=True):
            assert torch.equal(next(rollout), alone[chunk])
            assert not TRANSFORMER._forward_hooks


def test_a_longer_plan_goes_on_from_a_shorter_one() -> None:
    short, long = begin("fifo:window=6", Plan(9)), begin("fifo:window=6", Plan(15))
    list(short)
    long.load_state_dict(short.state_dict())
    whole = list(begin("fifo:window=6", Plan(15)))
    assert all(map(torch.equal, long, whole[3:]))
    with pytest.raises(ValueError, match="5 chunks made, but this one has 3"):
        short.load_state_dict(long.state_dict())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"policy": "fifo:window=9"}, r'`policy` is "Window\(.*window=6.*window=9'),
        ({"plan": Plan(9, chunk_size=2)}, "`chunk_size` is 3 in it and 2 here"),
        ({"plan": Plan(9, prefix=3)}, "`prefix` is 0 in it and 3 here"),
        ({"latent_size": (4, 6)}, r"`latents` is \[2, 4, 4, 4\] in it and \[2, 4, 4, 6\] here"),
        ({"transformer": toy_transformer(layers=3)}, "`layers` is 2 in it and 3 here"),
        (
            {"transformer": toy_transformer(heads=1)},
            r"`frame` is \[4, 2, 12\] in it and \[4, 1, 12\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_of_something_else_is_refused(other: dict[str, Any], message: str) -> None:
    rollout = begin("fifo:window=6", Plan(9))
    next(rollout)
    options = {"policy": "fifo:window=6", "plan": Plan(9)} | other
    wrong = begin(**options)
    expected = next(begin(**options))
    with pytest.raises(ValueError, match=message):
        wrong.load_state_dict(rollout.state_dict())
    assert torch.equal(next(wrong), expected)  # nothing has changed


def test_a_state_of_another_version_or_of_nothing_is_refused() -> None:
    rollout = begin("fifo:window=6", Plan(9))
    state = rollout.state_dict()
    state["made_for"] = state["made_for"] | {"version": 0, "colour": "red"}
    message = "`version` is 0 in it and 2 here; `colour` is 'red' in it and not there here"
    with pytest.raises(ValueError, match=message):
        rollout.load_state_dict(state)
    with pytest.raises(ValueError, match="no state of a rollout"):
        rollout.load_state_dict({})


def test_states_and_forks_have_their_place_between_two_chunks() -> None:
    rollout = begin("fifo:window=6", Plan(9))
    state = rollout.state_dict()
    actions = (
        rollout.state_dict,
        rollout.fork,
        lambda: rollout.load_state_dict(state),
        lambda: rollout.session.on(Pin(0, 1)),
    )
    with attach(TRANSFORMER, rollout.session) as session, suppress(StopIteration), session.chunk(3):
        for action in actions:
            with pytest.raises(SessionError, match="chunk"):
                action()
        raise StopIteration
    with pytest.raises(SessionError, match="not whole"):
        rollout.fork()
    rollout.load_state_dict(state)  # all is well again
    assert all(map(torch.equal, rollout, begin("fifo:window=6", Plan(9))))


def test_events_reach_every_bank_and_are_in_the_state() -> None:
    def run(*events: Any) -> list[Tensor]:
        rollout = begin("sink:sink=3,window=12", Plan(24))
        make(rollout, until=4)
        for event in events:
            rollout.session.on(event)
        other = begin("sink:sink=3,window=12", Plan(24))
        other.load_state_dict(rollout.state_dict())
        made = list(rollout)
        assert all(map(torch.equal, other, made))
        return made

    plain = run()
    for events in ((Pin(4, 6),), (Forget(6, 8),), (Cut(newest=2, place=9), Pin(1, 2))):
        assert not torch.equal(run(*events)[0], plain[0])


def test_a_whole_rollout_is_what_a_loop_makes() -> None:
    plan, policy = Plan(15), as_policy("tethercache:sink=1,memory=2,recent=3")
    rollout = begin(policy, plan)
    assert torch.equal(
        torch.cat(list(rollout), dim=2),
        latents_of(policy, plan, prompt_embeds=prompt(batch=2), samples=(0, 1), seed=1),
    )
    assert (rollout.chunks_made, rollout.latent_frames_made) == (5, 15)
    assert next(rollout, None) is None
