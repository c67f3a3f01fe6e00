"""The videos of a comparison, one by one: made, resumed, read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.comparison import readings
from tethercache.comparison.plan import Plan
from tethercache.files import read_object, write_atomically
from tethercache.fit import measure
from tethercache.fit.choice import BYTES
from tethercache.fit.memory import cache_bytes
from tethercache.render import check, load, prepare
from tethercache.render.batch import Job, Resume, check_room, slug
from tethercache.video import read_sidecar

if TYPE_CHECKING:
    from tethercache.render import Loaded, Order, Recording

_MAX_READING = 64 << 20


@dataclass(frozen=True)
class Unit:
    """One video of a comparison.

    Attributes:
        policy: its spec.
        prompt, seed: numbers from 0 on.
        path: of the mp4.
    """

    policy: str
    prompt: int
    seed: int
    path: Path

    @property
    def reading_path(self) -> Path:
        """Where its reading is kept."""
        return self.path.with_suffix(".reading.json")

    def reading(self) -> dict[str, Any] | None:
        """What was read of it; None: it is not made, or was read by another version."""
        try:
            found = read_object(self.reading_path, _MAX_READING)
            made = read_sidecar(self.path)
        except (OSError, ValueError):
            return None
        known = (found.get("version"), found.get("frames_hash"))
        return found if known == (readings.VERSION, made.frames_hash) else None


def units(plan: Plan, folder: Path) -> list[Unit]:
    """All videos of a plan, prompt by prompt, so that a part of them compares every policy."""
    return [
        Unit(
            policy,
            prompt,
            seed,
            folder / _folder_name(policy) / f"{prompt:03d}-{slug(subject.prompt)}-{seed}.mp4",
        )
        for prompt, subject in enumerate(plan.subjects)
        for seed in range(plan.seeds)
        for policy in plan.policies
    ]


def _folder_name(policy: str) -> str:
    """A policy as a name for any disk."""
    return re.sub(r"[^\w=.,-]+", "_", policy)


def run(
    plan: Plan,
    folder: Path,
    *,
    begun: Callable[[Loaded, int], None] = lambda loaded, left: None,
    told: Callable[[Unit, Recording], None] = lambda unit, recording: None,
    read: Callable[[Unit], None] = lambda unit: None,
) -> Iterator[Unit]:
    """Make and read what is missing.

    Every unit is a video as `tethercache generate` makes it, which is resumed where it broke off.

    Args:
        plan: what is compared.
        folder: where it goes.
        begun: is called with the loaded model and the number of missing units, if there are any.
        told: is called when a chunk of a video is in its file.
        read: is called when a video is complete and its reading begins.

    Yields:
        The units that were missing, when each is complete.

    Raises:
        ValueError: the folder has videos of another plan, or one of them is of another request.
        TetherCacheError: if a model, tool or memory is missing.
        OSError: if the files cannot be written.
    """
    plan.declare(folder)
    missing = [unit for unit in units(plan, folder) if unit.reading() is None]
    if not missing:
        return
    loaded = _load(plan, missing)
    begun(next(iter(loaded.values())), len(missing))
    for unit in missing:
        request = plan.request_for(unit.policy, unit.prompt, unit.seed)
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_made(unit, request.to_dict()):
            loaded[unit.policy].make(
                request,
                unit.path,
                resume=Resume.YES,
                told=partial(told, unit),
            )
        read(unit)
        record = read_sidecar(unit.path)
        found = readings.read(unit.path, plan.subjects[unit.prompt])
        found["values"]["frames_per_second"] = record.frames_per_second
        found["values"]["cache_mb"] = _cache_bytes(loaded[unit.policy]) / 1e6
        known = {"version": readings.VERSION, "frames_hash": record.frames_hash}
        write_atomically(unit.reading_path, json.dumps({**known, **found}) + "\n")
        yield unit


def _is_made(unit: Unit, request: dict[str, Any]) -> bool:
    if not unit.path.exists():
        return False
    asked = read_sidecar(unit.path).request
    apart = [key for key in ("prompt", "seed", "sample") if asked.get(key) != request[key]]
    if apart:
        raise ValueError(f"{unit.path} was made of another {', '.join(apart)}")
    return True


def _load(plan: Plan, missing: list[Unit]) -> dict[str, Loaded]:
    """One model for all policies, placed so that the largest of them fits."""
    orders: dict[str, Order] = {}
    for policy in plan.policies:
        orders[policy] = prepare(check(plan.request_for(policy, 0, 0)))
    largest = max(orders, key=lambda policy: orders[policy].policy.budget)
    jobs = [Job(plan.request_for(u.policy, u.prompt, u.seed), u.path) for u in missing]
    check_room(jobs, orders[largest])
    loaded = load(orders[largest], [job.request.prompt for job in jobs])
    return {policy: replace(loaded, order=order) for policy, order in orders.items()}


def _cache_bytes(loaded: Loaded) -> int:
    """The memory of one video's cache, by its size."""
    policy, placement, sizes = loaded.order.policy, loaded.placement, measure(loaded.order.parts)
    return cache_bytes(
        sizes,
        budget=policy.budget,
        hidden=policy.reserve(sizes.chunk),
        element=BYTES[placement.dtype],
        rotated=placement.keep_rotated,
    )
