"""One model, several sessions: each gives the bits of a run alone, and the model is restored."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.policies.runs import LATENT_SIZE, STEPS, TRANSFORMER, latents_of, prompt
from tests.toys import toy_transformer
from tethercache.backbones import Session, SessionError, attach
from tethercache.backbones.patching import Patches
from tethercache.cache import Policy
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import CounterNoise, Plan, Rollout

PLAN = Plan(15)
TIME = torch.tensor([500.0])
POLICIES = [TetherCache(1, 2, 3), Window(sink=1, window=6)]


@torch.no_grad()  # of each step alone: a `with` would reach into those who take turns with it
def chunks(policy: Policy, seed: int, model: Any = TRANSFORMER, **options: Any) -> Iterator[Tensor]:
    """A rollout that is attached from its first chunk to its last."""
    with attach(model, policy, chunk_size=3, **options) as session:
        yield from _rollout(session, seed, model)


def _rollout(session: Session, seed: int, model: Any = TRANSFORMER) -> Iterator[Tensor]:
    noise = CounterNoise(seed)
    return Rollout(model, session, PLAN, STEPS, noise, prompt(seed=seed), latent_size=LATENT_SIZE)


def alone(policy: Policy, seed: int) -> Tensor:
    return latents_of(policy, PLAN, seed=seed, prompt_embeds=prompt(seed=seed))


def looks(model: Any) -> list[object]:
    """All that an attachment might leave behind."""
    modules = [
        (name, id(module), sorted(vars(module)), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    return [modules, [id(p) for p in model.attn_processors.values()], list(model.state_dict())]


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = looks(TRANSFORMER)
    yield
    assert looks(TRANSFORMER) == before
    assert not TRANSFORMER._forward_hooks


def test_rollouts_take_turns_on_one_model() -> None:
    both = zip(chunks(POLICIES[0], 1), chunks(POLICIES[1], 2), chunks(POLICIES[0], 3), strict=True)
    for made, (policy, seed) in zip(
        zip(*both, strict=True),
        [(POLICIES[0], 1), (POLICIES[1], 2), (POLICIES[0], 3)],
        strict=True,
    ):
        assert torch.equal(torch.cat(made, dim=2), alone(policy, seed))


def test_rollouts_run_in_threads_on_one_model() -> None:
    runs = [(POLICIES[number % 2], number) for number in range(4)]
    start = threading.Barrier(len(runs))

    def run(policy: Policy, seed: int) -> Tensor:
        start.wait()
        return torch.cat(list(chunks(policy, seed)), dim=2)

    with ThreadPoolExecutor(len(runs)) as threads:
        made = list(threads.map(run, *zip(*runs, strict=True)))
    for latents, (policy, seed) in zip(made, runs, strict=True):
        assert torch.equal(latents, alone(policy, seed))


def test_passes_of_two_sessions_may_be_open_at_once() -> None:
    """The call goes to the one that was declared last, and then to the other again."""
    x = torch.randn(1, 4, 3, *LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attach(TRANSFORMER, POLICIES[0]) as one, one.chunk(3), one.context_pass():
        expected = TRANSFORMER(x, TIME, prompt()).sample
    with (
        torch.no_grad(),
        attach(TRANSFORMER, POLICIES[0]) as outer,
        attach(TRANSFORMER, POLICIES[1]) as inner,
        outer.chunk(3),
        outer.context_pass(),
    ):
        with inner.chunk(3), inner.context_pass():
            assert torch.equal(TRANSFORMER(x, TIME, prompt()).sample, expected)
        assert (outer.committed(), inner.committed()) == (0, 3)
        assert torch.equal(TRANSFORMER(x, TIME, prompt()).sample, expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_sessions_may_leave_in_any_order(order: tuple[int, ...]) -> None:
    before = looks(TRANSFORMER)
    attached = [attach(TRANSFORMER, policy) for policy in (*POLICIES, POLICIES[0])]
    sessions = [each.__enter__() for each in attached]
    for place in order:
        assert looks(TRANSFORMER) != before
        with torch.no_grad(), sessions[place].chunk(3), sessions[place].context_pass():
            TRANSFORMER(torch.zeros(1, 4, 3, *LATENT_SIZE), TIME, prompt())
        attached[place].__exit__(None, None, None)
    assert looks(TRANSFORMER) == before


def test_a_forgotten_rollout_leaves_when_it_is_collected() -> None:
    before = looks(TRANSFORMER)
    forgotten: list[Any] = [chunks(POLICIES[0], 1)]
    forgotten.append(forgotten)  # only the garbage collector finds it
    next(forgotten[0])
    assert looks(TRANSFORMER) != before
    del forgotten
    assert torch.equal(torch.cat(list(chunks(POLICIES[1], 2)), dim=2), alone(POLICIES[1], 2))
    gc.collect()
    assert looks(TRANSFORMER) == before


def test_who_leaves_while_another_comes_does_not_take_the_changes_along() -> None:
    """As when the garbage collector closes a generator in the middle of an installation."""
    patches, model, log = Patches(), type("Model", (), {})(), []
    first = patches.used(model)

    def install(owner: Any, undo: ExitStack) -> None:
        first.__exit__(None, None, None)
        log.append("in")
        undo.callback(log.append, "out")

    first.__enter__()
    with patches.used(model, install):
        assert log == ["in"]
    assert log == ["in", "out"]


def test_an_interrupted_installation_is_undone() -> None:
    patches, model = Patches(), type("Model", (), {})()

    def install(owner: Any, undo: ExitStack) -> None:
        owner.changed = True
        undo.callback(delattr, owner, "changed")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), patches.used(model, install):
        pass
    assert not vars(model)


def test_a_session_is_attached_chunk_by_chunk() -> None:
    """Between its chunks the model is as before, and others may use it."""
    before, x = looks(TRANSFORMER), torch.randn(1, 4, 3, *LATENT_SIZE)
    plain = TRANSFORMER(x, TIME, prompt()).sample
    with attach(TRANSFORMER, POLICIES[0], chunk_size=3) as session:
        made = _rollout(session, 1)
    parts: list[Tensor] = []
    for _ in PLAN:
        with torch.no_grad(), attach(TRANSFORMER, session):
            parts.append(next(made))
        assert looks(TRANSFORMER) == before
        assert torch.equal(TRANSFORMER(x, TIME, prompt()).sample, plain)
    assert torch.equal(torch.cat(parts, dim=2), alone(POLICIES[0], 1))
    with pytest.raises(ValueError, match="another transformer"), attach(toy_transformer(), session):
        pass


def test_a_call_in_a_thread_that_declared_nothing_raises() -> None:
    x = torch.zeros(1, 4, 3, *LATENT_SIZE)
    with (
        torch.no_grad(),
        attach(TRANSFORMER, POLICIES[0]) as session,
        session.chunk(3),
        session.context_pass(),
        ThreadPoolExecutor(1) as thread,
    ):
        with pytest.raises(SessionError, match="in the thread"):
            thread.submit(TRANSFORMER, x, TIME, prompt()).result()
        TRANSFORMER(x, TIME, prompt())


def test_a_backend_chosen_while_attached_is_there_afterwards() -> None:
    model = toy_transformer()
    with attach(model, POLICIES[0]):
        model.set_attention_backend("native")
    assert {p._attention_backend.value for p in model.attn_processors.values()} == {"native"}


# Compiled by the user --------------------------------------------------------------------


def _wrapped(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def _in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend, fullgraph=True)
    return model


def _by_blocks(model: Any, backend: Any) -> Any:
    model.compile_repeated_blocks(backend=backend, fullgraph=True)
    return model


@pytest.mark.parametrize(
    ("compiled", "pieces"),
    [(_wrapped, 3), (_in_place, 3), (_by_blocks, 1)],  # a call begins, runs and ends; a block runs
    ids=["torch.compile", "compile", "compile_repeated_blocks"],
)
def test_a_compiled_transformer_gives_the_same_and_is_compiled_once(
    compiled: Callable[[Any, Any], Any], pieces: int
) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    model = toy_transformer()
    call = compiled(model, counter)
    for policy, seed in ((POLICIES[0], 1), (POLICIES[1], 2), (POLICIES[0], 3)):
        made = torch.cat(list(chunks(policy, seed, call)), dim=2)
        assert torch.equal(made, alone(policy, seed))
        assert counter.frame_count == pieces  # neither passes nor chunks nor sessions compile again
    both = list(zip(chunks(POLICIES[0], 1, call), chunks(POLICIES[1], 2, call), strict=True))
    assert torch.equal(torch.cat([one for one, _ in both], dim=2), alone(POLICIES[0], 1))
    assert torch.equal(torch.cat([other for _, other in both], dim=2), alone(POLICIES[1], 2))
    assert counter.frame_count == pieces


def test_what_was_compiled_before_is_as_before_afterwards() -> None:
    torch.compiler.reset()
    model, x = toy_transformer(), torch.randn(1, 4, 3, *LATENT_SIZE)
    call = torch.compile(model, backend="eager")
    plain = call(x, TIME, prompt()).sample
    assert torch.equal(torch.cat(list(chunks(POLICIES[0], 1, call)), 2), alone(POLICIES[0], 1))
    assert torch.equal(call(x, TIME, prompt()).sample, plain)
    with attach(call, POLICIES[0]), pytest.raises(SessionError, match="outside a pass"):
        call(x, TIME, prompt())


def test_blocks_are_compiled_for_the_session_that_asks_for_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **o: compile_block(self, backend=counter, **o)
    )
    plain, compiled = chunks(POLICIES[0], 1), chunks(POLICIES[1], 2, compile_blocks=True)
    parts = [next(plain)]
    first = next(compiled)
    so_far = counter.op_count
    assert so_far
    parts += plain
    assert counter.op_count == so_far
    assert torch.equal(torch.cat(parts, dim=2), alone(POLICIES[0], 1))
    assert torch.equal(torch.cat([first, *compiled], dim=2), alone(POLICIES[1], 2))
