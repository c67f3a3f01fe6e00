"""What every registered policy promises (`docs/architecture.md`, section 4)."""

from __future__ import annotations

import copy
import re
import sys
from functools import cache

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.policies.runs import LATENT_SIZE, STEPS, TRANSFORMER, latents_of, naive_latents, prompt
from tests.toys import toy_transformer
from tethercache.backbones import Session, attach
from tethercache.cache import Policy, Rotation
from tethercache.policies import POLICIES
from tethercache.rollout import Plan

LONG = Plan(33)
BASES = [name for name in POLICIES if not POLICIES[name].wraps]
WRAPPERS = [name for name in POLICIES if POLICIES[name].wraps]
SPECS = [
    *BASES,
    "fifo:positions=absolute",
    "sink:positions=absolute",
    "ema-sink:window=10,alpha=0.5",
    *(f"tethercache + {wrapper}" for wrapper in WRAPPERS),
]
PAIRS = [f"{base} + {wrapper}" for base in BASES if base != "tethercache" for wrapper in WRAPPERS]


@cache
def made(policy: Policy, frames: int = LONG.num_latent_frames) -> Tensor:
    """A rollout that several tests need."""
    return latents_of(policy, Plan(frames))


@pytest.fixture(params=SPECS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES.parse(request.param)


def waived(policy: Policy, invariant: str) -> None:
    for part in POLICIES.spec(policy).split(" + "):
        name = part.partition(":")[0]
        if reason := POLICIES[name].waives.get(invariant):
            pytest.skip(f"{name} waives {invariant}: {reason}")


def test_the_sink_is_bit_unchanged_once_it_is_committed(policy: Policy) -> None:
    waived(policy, "sink")
    seen: dict[int, list[Tensor]] = {}

    def watch(session: Session) -> None:
        size = policy.sink_size
        if session.committed() < size:
            return
        for number, layer in enumerate(session.caches()):
            order = layer.frame_index[:, : layer.readable].argsort(dim=1)[:, :size]
            assert layer.frame_index[layer.rows, order].tolist() == [list(range(size))]
            now = [x[layer.rows, order] for x in (layer.key, layer.value, layer.rotated)]
            for before, after in zip(seen.setdefault(number, now), now, strict=True):
                assert torch.equal(before, after)

    latents_of(policy, LONG, watch=watch)
    assert seen


def test_at_most_k_frames_are_read_unique_and_ordered_by_position(policy: Policy) -> None:
    def watch(session: Session) -> None:
        for layer in session.caches():
            index = layer.frame_index[0, : layer.readable]
            assert layer.readable <= policy.budget
            assert layer.rotated.shape[1] == policy.budget
            assert len(index.unique()) == layer.readable
            assert index.min() >= 0
            assert index.max() == session.committed() - 1
            position = policy.place(layer)[0]
            assert torch.equal(position.argsort(), index.argsort())

    latents_of(policy, LONG, watch=watch)


def test_under_budget_it_equals_full_attention(policy: Policy) -> None:
    waived(policy, "full attention under budget")
    plan = Plan(policy.budget // 3 * 3)
    ours = made(policy)[:, :, : plan.num_latent_frames]
    full = naive_latents(plan, "window", sink=0, window=10**6)
    torch.testing.assert_close(ours, full, atol=1e-5, rtol=1e-5)


def test_two_rollouts_in_a_row_equal_two_fresh_ones(policy: Policy) -> None:
    first = made(policy)
    second = latents_of(policy, LONG, seed=2)
    fresh = copy.deepcopy(TRANSFORMER)
    assert torch.equal(latents_of(policy, LONG, seed=2, transformer=fresh), second)
    assert torch.equal(latents_of(policy, LONG), first)


def test_a_batch_of_three_equals_three_batches_of_one(policy: Policy) -> None:
    prompts = prompt(batch=3)
    together = latents_of(policy, LONG, prompt_embeds=prompts, samples=(0, 1, 2))
    for i in range(3):
        alone = latents_of(policy, LONG, prompt_embeds=prompts[i : i + 1], samples=(i,))
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-4, rtol=1e-4)


def test_the_first_chunks_do_not_depend_on_the_length(policy: Policy) -> None:
    long = made(policy)
    assert torch.equal(latents_of(policy, Plan(27)), long[:, :, :27])
    assert torch.equal(latents_of(policy, Plan(6)), long[:, :, :6])


def test_rotating_on_read_changes_no_bit(policy: Policy) -> None:
    assert torch.equal(latents_of(policy, LONG, keep_rotated=False), made(policy))


def test_a_long_video_takes_the_memory_of_a_short_one(policy: Policy) -> None:
    held: list[int] = []

    def watch(session: Session) -> None:
        banks = session.caches()
        kept = [banks[0].shared]
        for bank in banks:
            arrays = {"frames": bank.frames, "rotated": bank.rotated, "marks": bank.marks}
            kept += [bank.notes, arrays]
        held.append(sum(x.numel() for tensors in kept for x in tensors.values()))

    latents_of(policy, Plan(policy.budget + 18), watch=watch)
    assert len(set(held[-4:])) == 1


@pytest.mark.parametrize("name", [name for name in POLICIES if not POLICIES[name].package])
def test_every_policy_says_what_it_is_and_where_it_differs(name: str) -> None:
    module = sys.modules[POLICIES.load(name).__module__]
    assert module.__doc__ is not None
    assert re.search(r"Deviation|[Oo]urs\b|a bug", module.__doc__), name
    assert POLICIES[name].source or "urs" in module.__doc__
    for field in POLICIES.fields(name):
        assert f"    {field}:" in (POLICIES.load(name).__doc__ or ""), field


@pytest.mark.slow
def test_240_seconds_take_constant_memory(policy: Policy) -> None:
    held: list[int] = []

    def watch(session: Session) -> None:
        banks = session.caches()
        tensors = [*banks[0].shared.values()]
        for bank in banks:
            assert bank.frames.shape[2] == policy.budget + policy.reserve(3)
            assert bank.readable <= policy.budget
            assert bank.hidden <= policy.reserve(3)
            state = bank.state_dict()
            tensors += [bank.rotated, bank.frames, bank.marks, *bank.notes.values()]
            tensors += [state["frames"], state["marks"]]
        held.append(sum(x.numel() for x in tensors))

    frames = (240 * 16 + 3) // 4 // 3 * 3  # latent frames of 240 s at 16 frames a second
    latents_of(policy, Plan(frames), watch=watch)
    # a store of 120 frames and a window are full by now, and nothing grows any more
    settled = (policy.budget + policy.reserve(3)) // 3 + 3
    assert len(set(held[settled:])) == 1
    assert len(held) - settled > 200


@pytest.mark.parametrize(
    "spec",
    [
        # these narrow what is seen as `far-read` does
        pytest.param(spec, marks=pytest.mark.slow if spec.endswith(("late-far", "mask")) else ())
        for spec in PAIRS
    ],
)
def test_every_wrapper_goes_with_every_policy(spec: str) -> None:
    policy, plan = POLICIES.parse(spec), Plan(27)
    plan.check(policy)
    kept = latents_of(policy, plan)
    assert kept.isfinite().all()
    assert torch.equal(latents_of(policy, plan, keep_rotated=False), kept)


def test_leaving_attach_restores_the_model_exactly(policy: Policy) -> None:
    inputs = (torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), prompt())
    state = {name: tensor.clone() for name, tensor in TRANSFORMER.state_dict().items()}
    modules = [(name, id(module)) for name, module in TRANSFORMER.named_modules()]
    processors = [id(p) for p in TRANSFORMER.attn_processors.values()]
    before = TRANSFORMER(*inputs).sample
    latents_of(policy, Plan(9))
    with (
        pytest.raises(KeyboardInterrupt),
        attach(TRANSFORMER, policy) as session,
        session.chunk(3),
        session.denoising_pass(),
    ):
        raise KeyboardInterrupt
    assert torch.equal(TRANSFORMER(*inputs).sample, before)
    assert [(name, id(module)) for name, module in TRANSFORMER.named_modules()] == modules
    assert [id(p) for p in TRANSFORMER.attn_processors.values()] == processors
    assert not TRANSFORMER._forward_pre_hooks
    after = TRANSFORMER.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def test_a_steady_chunk_never_waits_for_the_device(policy: Policy) -> None:
    # FakeTensorMode raises on item, tolist, bool, numpy and shapes that depend on data
    with FakeTensorMode(), torch.no_grad():
        model, text, told = toy_transformer(), prompt(), torch.zeros(1)
        with attach(model, policy, chunk_size=3) as session:
            for _ in range(policy.budget // 3 + 2):
                latents = torch.randn(1, 4, 3, *LATENT_SIZE)
                with session.chunk(3):
                    with session.denoising_pass():
                        model(latents, told, text)
                    with session.context_pass():
                        model(latents, told, text)
            assert session.committed() > policy.budget


def test_a_steady_chunk_rotates_at_most_30_frames_of_keys_a_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rotated = []

    def count(name: str) -> None:
        rotate = getattr(Rotation, name)
        monkeypatch.setattr(
            Rotation, name, lambda self, x: rotated.append(x.shape[1]) or rotate(self, x)
        )

    count("__call__")
    count("turn_")
    per_chunk: list[int] = []
    latents_of(
        POLICIES.parse("tethercache"),
        LONG,
        watch=lambda _: per_chunk.append(sum(rotated) - sum(per_chunk)),
    )
    passes, layers, queries = len(STEPS) + 1, len(TRANSFORMER.blocks), 3
    # the last layer's context pass ends with its commit and has no use for queries
    steady = (per_chunk[-1] - (passes * layers - 1) * queries) / layers
    # of a pass 3 frames are new; besides, recent frames move once a chunk and the memory once
    assert steady == passes * 3 + 1 + 14
    assert steady - passes * 3 + 5 * 3 <= 30  # with the 4 + 1 passes of the real sampler
