"""Traced rollouts on the toy transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.rollout.test_changes import begin
from tethercache.rollout import Action, Plan, Rollout
from tethercache.trace import Tracer


def follow(rollout: Rollout, tracer: Tracer, chunks: int | None = None) -> list[dict[str, Any]]:
    """Make the next chunks, or all that are left, and return what is traced of them."""
    traced = []
    while rollout.chunks_made < rollout.plan.num_chunks and len(traced) != chunks:
        number = rollout.chunks_made
        next(rollout)
        place = rollout.plan[number]
        traced.append(tracer.take(number, place.start, place.start + place.frames))
    return traced


def trace(
    spec: str,
    frames: int = 33,
    actions: Mapping[int, Sequence[Action]] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Trace a whole video of a policy."""
    rollout, tracer = begin(spec, actions, Plan(frames), **options), Tracer()
    tracer.watch(rollout.session)
    return follow(rollout, tracer)
