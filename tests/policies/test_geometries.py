"""Any geometry: it is either refused with a clear message or equals the naive oracle."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.policies.runs import LATENT_SIZE, latents_of, naive_latents
from tethercache.backbones import Session
from tethercache.cache import Bank
from tethercache.policies import POLICIES
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import Plan

PLANS = st.builds(
    Plan,
    num_latent_frames=st.integers(1, 22),
    chunk_size=st.integers(1, 4),
    first_chunk_size=st.none() | st.integers(1, 5),
    prefix=st.integers(0, 7),
)


def _prefix(plan: Plan) -> torch.Tensor | None:
    if not plan.prefix:
        return None
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 4, plan.prefix, *LATENT_SIZE, generator=generator)


@st.composite
def tethercaches(draw: st.DrawFn) -> tuple[Plan, TetherCache]:
    """A plan and a policy, most often one that can serve it past its budget."""
    plan = draw(PLANS)
    chunks = [chunk.frames for chunk in plan]
    sums = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    sink = draw(st.integers(0, 4))
    recent = draw(st.integers(1, 3)) + draw(st.sampled_from([0, max(chunks) - 1]))
    budget = draw(st.sampled_from(sums) | st.integers(1, 25))
    memory = max(0, budget - sink - recent)
    alpha, tau = draw(st.sampled_from([0.0, 0.35, 3.0])), draw(st.sampled_from([0.0, 0.35, 1.0]))
    return plan, TetherCache(sink, memory, recent, alpha, tau, temperature=0.7)


@given(tethercaches())
@settings(max_examples=80)
def test_tethercache_equals_the_naive_oracle_or_refuses(case: tuple[Plan, TetherCache]) -> None:
    plan, policy = case
    chunks = [chunk.frames for chunk in plan]
    sums = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    large_enough = policy.recent >= max(chunks[1:] or [1])
    served = large_enough and (policy.budget in sums or sums[-1] < policy.budget)
    event(f"served: {served}, admissions: {served and policy.budget < sums[-1]}")
    if not served:
        with pytest.raises(ValueError, match=r"must be (at least|reached by)"):
            plan.check(policy)
        return
    plan.check(policy)
    gaps = []

    def told(event: str, bank: Bank, facts: Mapping[str, Any]) -> None:
        if event == "recall":
            best = facts["score"][0].sort(descending=True).values
            gaps.append((best[policy.memory - 1] - best[policy.memory]).item())

    def watch(session: Session) -> None:
        for layer in session.caches():
            assert layer.readable <= policy.budget
            index = layer.frame_index[0, : layer.readable]
            assert len(index.unique()) == layer.readable

    prefix = _prefix(plan)
    ours = latents_of(policy, plan, prefix=prefix, watch=watch, told=told)
    if gaps and min(gaps) < 1e-6:
        return  # a near-tie, which rounding may decide either way
    naive = naive_latents(plan, "tethercache", prefix=prefix, **dataclasses.asdict(policy))
    torch.testing.assert_close(ours, naive, atol=2e-4, rtol=1e-4)


@given(
    plan=PLANS,
    sink=st.integers(0, 4),
    window=st.integers(1, 12),
    positions=st.sampled_from(["relative", "absolute"]),
)
@settings(max_examples=25)
def test_the_window_equals_the_naive_oracle_or_refuses(
    plan: Plan, sink: int, window: int, positions: str
) -> None:
    if window <= sink:
        with pytest.raises(ValueError, match="must be larger than `sink`"):
            Window(sink, window)
        return
    policy = Window(sink, window, positions)  # type: ignore[arg-type]
    largest = max(chunk.frames for chunk in plan)
    if window < sink + largest:
        with pytest.raises(ValueError, match=re.escape(f"`window` ({window}) must be at least")):
            plan.check(policy)
        return
    prefix = _prefix(plan)
    ours = latents_of(policy, plan, prefix=prefix)
    naive = naive_latents(plan, "window", prefix=prefix, **dataclasses.asdict(policy))
    torch.testing.assert_close(ours, naive, atol=2e-4, rtol=1e-4)


SIZES = {
    "sink": st.integers(0, 4),
    "memory": st.integers(1, 5),
    "recent": st.integers(2, 6),
    "window": st.integers(5, 13),
    "compressed": st.integers(3, 9),
    "stored": st.integers(7, 20),
    "opening": st.integers(1, 9),
    "anchors": st.integers(1, 3),
    "every": st.integers(1, 3),
    "newest": st.integers(3, 7),
    "interval": st.integers(1, 3),
}
WRAPPERS = [name for name in POLICIES if POLICIES[name].wraps]


@st.composite
def specs(draw: st.DrawFn) -> str:
    """Any registered policy at small sizes, perhaps with a wrapper around it."""
    names = [draw(st.sampled_from([name for name in POLICIES if name not in WRAPPERS]))]
    names += draw(st.lists(st.sampled_from(WRAPPERS), max_size=2))
    parts = []
    for name in names:
        sizes = {key: draw(SIZES[key]) for key in POLICIES.fields(name) if key in SIZES}
        parts.append(f"{name}:" + ",".join(f"{key}={size}" for key, size in sizes.items()))
    return " + ".join(parts)


LONGER = st.builds(
    Plan,
    num_latent_frames=st.integers(15, 30),
    chunk_size=st.integers(1, 3),
    first_chunk_size=st.none() | st.integers(1, 4),
    prefix=st.integers(0, 4),
)


@given(spec=specs(), plan=LONGER)
@settings(max_examples=60)
def test_any_policy_at_any_geometry_keeps_its_promises_or_refuses(spec: str, plan: Plan) -> None:
    try:
        policy = POLICIES.parse(spec)
        plan.check(policy)
    except ValueError as error:
        event("refused")
        assert "must be" in str(error)  # noqa: PT017
        return
    event(f"served, {'past' if plan.num_latent_frames > policy.budget else 'within'} the budget")

    def watch(session: Session) -> None:
        for layer in session.caches():
            index = layer.frame_index[0, : layer.readable]
            assert layer.readable <= policy.budget
            assert len(index.unique()) == layer.readable
            assert torch.equal(policy.place(layer)[0].argsort(), index.argsort())

    prefix = _prefix(plan)
    kept = latents_of(policy, plan, prefix=prefix, watch=watch)
    assert kept.isfinite().all()
    assert torch.equal(latents_of(policy, plan, prefix=prefix, keep_rotated=False), kept)
    assert POLICIES.parse(POLICIES.spec(policy)) == policy


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"sink": -1}, "`sink` (-1) must be a whole number of at least 0"),
        ({"memory": -2}, "`memory` (-2) must be a whole number of at least 0"),
        ({"recent": 0}, "`recent` (0) must be a whole number of at least 1"),
        ({"alpha": -0.1}, "`alpha` (-0.1) must be a finite number of at least 0"),
        ({"alpha": float("nan")}, "`alpha` (nan) must be a finite number"),
        ({"tau": 1.5}, "`tau` (1.5) must be a finite number from 0 to 1"),
        ({"temperature": 0.0}, "`temperature` (0.0) must be a positive number"),
    ],
)
def test_impossible_settings_are_refused_by_name_and_value(
    settings_: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TetherCache(**settings_)


def test_a_budget_that_whole_chunks_do_not_reach_is_refused_with_what_would_do() -> None:
    with pytest.raises(ValueError, match="a budget of 18 or 21 would do"):
        Plan(60).check(TetherCache(memory=13))
