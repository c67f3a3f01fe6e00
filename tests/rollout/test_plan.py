from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tethercache.cache import Policy
from tethercache.models import Settings
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.request import plan_video
from tethercache.rollout import Plan, frames_for_seconds, latent_frames, pixel_frames


@given(st.integers(1, 60), st.integers(1, 7), st.none() | st.integers(1, 7), st.integers(0, 9))
def test_chunks_are_contiguous_and_cover_the_video_with_less_than_a_chunk_to_spare(
    needed: int, size: int, first: int | None, prefix: int
) -> None:
    chunks = list(Plan(needed, size, first, prefix))
    sizes = [c.frames for c in chunks]
    assert [c.start for c in chunks] == [sum(sizes[:i]) for i in range(len(chunks))]
    assert sum(sizes) >= max(needed, prefix)
    assert sum(sizes[:-1]) < max(needed, prefix)
    assert sum(c.frames for c in chunks if c.generated is None) == prefix
    numbers = [c.generated for c in chunks if c.generated is not None]
    assert numbers == list(range(len(numbers)))
    assert all(c.frames == size for c in chunks[1:] if c.generated is not None)


@given(st.integers(1, 10_000))
def test_latent_frames_are_the_fewest_that_suffice(frames: int) -> None:
    latents = latent_frames(frames)
    assert pixel_frames(latents) >= frames
    assert latents == 1 or pixel_frames(latents - 1) < frames


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7])
def test_ten_seconds_are_exactly_160_frames_whatever_the_chunk(chunk: int) -> None:
    settings = Settings(chunk_size=chunk)
    assert plan_video(settings, Window(), num_seconds=10).num_frames == 160


def test_n_latent_frames_are_4n_minus_3_frames() -> None:
    assert plan_video(Settings(), Window(), num_latent_frames=20).num_frames == 77


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 0.01])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        frames_for_seconds(seconds, 16)


@pytest.mark.parametrize("length", [{"num_seconds": 2.5e8}, {"num_latent_frames": 10**9}])
def test_a_video_of_years_is_planned_without_walking_its_chunks(length: dict[str, float]) -> None:
    asked = []

    @dataclass(frozen=True)
    class Counted(Window):
        def check_chunk(self, committed: int, frames: int) -> None:
            asked.append(committed)

    plan = plan_video(Settings(), Counted(), **length)
    assert plan.chunks.num_chunks > 3 * 10**8
    assert len(asked) < 50


@pytest.mark.parametrize("policy", [TetherCache(1, 3, 4), Window(sink=2, window=6)])
@given(st.integers(1, 60), st.integers(1, 7), st.none() | st.integers(1, 7), st.integers(0, 40))
def test_a_policy_is_refused_if_any_chunk_does_not_suit_it(
    policy: Policy, needed: int, size: int, first: int | None, prefix: int
) -> None:
    def refuses(ask: Callable[[], object]) -> bool:
        try:
            ask()
        except ValueError:
            return True
        return False

    plan = Plan(needed, size, first, prefix)
    assert plan.num_chunks == len(list(plan))
    asked = [refuses(partial(policy.check_chunk, c.start, c.frames)) for c in plan]
    assert refuses(lambda: plan.check(policy)) == any(asked)


@pytest.mark.parametrize(
    ("policy", "length", "message"),
    [
        (Window(), {}, "give a length"),
        (Window(), {"num_seconds": 1, "num_latent_frames": 3}, "give a length"),
        (Window(window=24), {"num_seconds": 1}, "must not exceed the 21"),
        (TetherCache(recent=2, memory=16), {"num_seconds": 9}, "`recent` (2) must be at least"),
        (TetherCache(memory=13), {"num_seconds": 9}, "reached by whole chunks"),
        (Window(), {"num_latent_frames": 0}, "must be a whole number of at least 1"),
        (Window(), {"num_seconds": 1e9}, "(1000000000.0) must be at most 268435455.9 at 16 fps"),
        (Window(), {"num_seconds": 1e300}, "must be at most"),
        (Window(), {"num_seconds": 10**400}, "must be at most"),
        (Window(), {"num_latent_frames": 2 * 10**9}, "must be at most 1073741824: an mp4"),
        (Window(), {"num_latent_frames": 3, "prefix": 4}, "longer than the video"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    policy: Window, length: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_video(Settings(), policy, **length)


@pytest.mark.parametrize(
    "wrong", [{"chunk_size": 0}, {"first_chunk_size": 0}, {"prefix": -1}, {"num_latent_frames": 0}]
)
def test_plans_of_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Plan(**({"num_latent_frames": 3} | wrong))
