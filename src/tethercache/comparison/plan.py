"""What is compared: policies, prompts and seeds, and all that is the same for each video."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.arguments import whole_number
from tethercache.evaluation import world
from tethercache.files import read_object, write_atomically
from tethercache.policies import POLICIES
from tethercache.request import VideoRequest

if TYPE_CHECKING:
    from tethercache.evaluation.world import Scene

VERSION = 1
FREE = ("prompt", "policy", "seed", "sample")
"""Fields of a request in which the videos of a comparison differ."""

_MAX_PLAN = 16 << 20


@dataclass(frozen=True)
class Subject:
    """A prompt, and what its video should show.

    Attributes:
        prompt: the text.
        scene: of the rendered world, for the oracle; None: nothing is known but the text.
    """

    prompt: str
    scene: Scene | None = None


def of_prompts(prompts: Sequence[str]) -> list[Subject]:
    """Prompts of which nothing else is known."""
    return [Subject(prompt) for prompt in prompts]


def of_scenes(count: int, *, turning: bool = False, first: int | None = None) -> list[Subject]:
    """Scenes of the rendered world that no training has used, each with its caption.

    Args:
        count: how many.
        turning: the camera turns round and round, so that places come back.
        first: the number of the first scene that may be taken; None: where held-out ones begin.
    """
    whole_number("scenes", count, least=1)
    config = world.WorldConfig(
        object_weights=(0.6, 0.4), pan_probability=0.0, turn_probability=float(turning)
    )
    start = {} if first is None else {"first": first}
    scenes = world.held_out_scenes(count, config, **start)
    return [Subject(scene.caption, scene) for scene in scenes]


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        request: what all videos have in common; prompt, policy and sample do not count, and its
            seed is the first one.
        policies: specs; the others are compared with the first.
        subjects: the prompts. The number of a prompt names its noise, together with the seed, so
            every policy gets the same.
        seeds: how many videos of each prompt and policy.

    Raises:
        ValueError: there is nothing to compare, or a policy twice.
    """

    request: VideoRequest
    policies: tuple[str, ...]
    subjects: tuple[Subject, ...]
    seeds: int = 1

    def __post_init__(self) -> None:
        specs = tuple(POLICIES.spec(POLICIES.parse(text), full=True) for text in self.policies)
        if not specs:
            raise ValueError("give at least one policy")
        labels = [" ".join(text.split()) for text in self.policies]
        if len(set(labels)) < len(labels):
            raise ValueError(f"a policy is given twice: {', '.join(labels)}")
        if not self.subjects:
            raise ValueError("give at least one prompt")
        whole_number("seeds", self.seeds, least=1)
        object.__setattr__(self, "policies", tuple(labels))

    def request_for(self, policy: str, prompt: int, seed: int) -> VideoRequest:
        """What one video is asked for; prompt and seed are numbers from 0 on."""
        return dataclasses.replace(
            self.request,
            prompt=self.subjects[prompt].prompt,
            policy=policy,
            seed=self.request.seed + seed,
            sample=prompt,
        )

    @cached_property
    def common(self) -> dict[str, Any]:
        """What all videos have in common, as JSON has it."""
        shared = {key: value for key, value in self.request.to_dict().items() if key not in FREE}
        return {"version": VERSION, "first_seed": self.request.seed, "request": shared}

    def declare(self, folder: Path) -> None:
        """Note in a folder what its videos have in common, so that no others get among them.

        Raises:
            ValueError: naming in what the videos that are there differ.
            OSError: the folder cannot be written.
        """
        path = folder / "plan.json"
        mine = json.loads(json.dumps(self.common))
        if path.exists():
            there = read_object(path, _MAX_PLAN)
            pairs = [(mine, there), (mine["request"], there.get("request", {}))]
            apart = [
                key
                for one, other in pairs
                for key in one
                if key != "request" and one[key] != other.get(key)
            ]
            if apart:
                raise ValueError(
                    f"{folder} has videos of other {', '.join(apart)}; take another folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=1) + "\n")
