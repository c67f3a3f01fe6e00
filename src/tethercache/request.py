"""What is asked of one video, checked before anything is loaded: loads no torch of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from tethercache.arguments import (
    SEEDS,
    as_path,
    flag,
    instance,
    number,
    one_of,
    positive,
    whole_number,
)
from tethercache.fit.choice import BYTES
from tethercache.fit.execution import Execution, check_threads
from tethercache.policies import POLICIES, as_policy
from tethercache.prompts import check_prompt, check_text
from tethercache.registry import check_keys
from tethercache.rollout import Plan, frames_for_seconds, latent_frames, pixel_frames
from tethercache.rollout.plan import MAX_FRAMES
from tethercache.script import (
    Branch,
    Change,
    changes_by_chunk,
    changes_from,
    check_policies,
    in_order,
)

if TYPE_CHECKING:
    from tethercache.cache import Policy
    from tethercache.models import Settings

VERSION = 1
"""Of what `VideoRequest.to_dict` returns."""

DEFAULT_SECONDS = 10.0
DTYPES = tuple(BYTES)


@dataclass(frozen=True)
class Lora:
    """An adapter that is merged into the model.

    Attributes:
        file: its path.
        scale: how strong it is.
    """

    file: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        _path(self, "file")
        number("scale", self.scale)

    @classmethod
    def parse(cls, text: str) -> Lora:
        """Read `FILE[:SCALE]`; a colon with no number behind it is part of the name."""
        name, colon, scale = text.rpartition(":")
        try:
            return cls(name, float(scale)) if colon and _is_number(scale) else cls(text)
        except ValueError as error:
            raise ValueError(f"`loras` ({text}): {error}") from None


@dataclass(frozen=True)
class VideoRequest:
    """What is asked of one video: the flags of `generate`, part of its record, a line of a batch.

    Everything that needs no model is checked here; `plan` checks the rest. White space around the
    prompt goes, a length that is not given is written out, a policy object becomes its spec.

    Args:
        prompt: what the video shows.
        seconds: length in seconds; 10 if neither length is given.
        latent_frames: length in latent frames n instead, which become 4 n - 3 video frames.
        policy: what the model remembers, or its spec; None: what suits the model.
        model: a name of `tethercache models list`, a folder, a checkpoint or a hub id.
        weights_dir: folder to take the model's files from, not from the hub's cache.
        loras: adapters to merge, in this order.
        prefix: clip or picture that the video starts with, frame for frame.
        seed: of the noise, from -2 ** 63 to 2 ** 64 - 1.
        sample: number of the video among those of this prompt and seed, 0 or more.
        then: what changes over time.
        branch: the video that it is a branch of; says nothing about the frames.
        device: where to compute: `cpu`, `cuda`, `cuda:1`, ...; `auto` picks.
        dtype: number format of weights and cache; None: float32 on a CPU where it fits, else
            bfloat16.
        vae_dtype: number format of the VAE; None: the same.
        vram: GB to stay within, each 2 ** 30 bytes; `auto`: what is free.
        attention: backend, see `fit.execution.choose_attention`.
        compile: compile transformer and decoder first.
        overlap: `on`, `off` or `auto`: decode a chunk while the next one is denoised.
        decoder: `vae` or `preview`.
        channels_last: memory layout of the VAE's convolutions.
        threads: PyTorch's on a CPU; None: by the model's size and the number of cores.
        crf: quality of the mp4, from 1 (best) to 51.
        watch_drift: measure while the video is made how far it drifts.
        guard: where it drifts, go back and try something else; see `render/guard.py`.
        trace: write down what the cache does, layer by layer and chunk by chunk.
        keep_snapshots: how many of the newest snapshots stay while the video is made; 0: none is
            taken, and a crash loses the video.
        snapshot_every: seconds of work between two snapshots; 0: one wherever there can be one;
            None: at least 2, and so many that they take 2 % of the time at most.
        snapshot_budget: GB, each 2 ** 30 bytes, that older snapshots may take, spread over the
            video; they stay when it is complete, for branches.

    Raises:
        ValueError: naming the argument, the rule and the value.
    """

    prompt: str
    seconds: float | None = None
    latent_frames: int | None = None
    policy: Policy | str | None = None
    model: str = "tiny"
    weights_dir: str | None = None
    loras: tuple[Lora, ...] = ()
    prefix: str | None = None
    seed: int = 0
    sample: int = 0
    then: tuple[Change, ...] = ()
    branch: Branch | None = None
    device: str = "auto"
    dtype: str | None = None
    vae_dtype: str | None = None
    vram: float | str = "auto"
    attention: str = "auto"
    compile: bool = False
    overlap: str = "auto"
    decoder: str = "vae"
    channels_last: bool = False
    threads: int | None = None
    crf: int = 18
    watch_drift: bool = False
    guard: bool = False
    trace: bool = False
    keep_snapshots: int = 2
    snapshot_every: float | None = None
    snapshot_budget: float = 0.0

    def __post_init__(self) -> None:
        _set(self, prompt=check_prompt(instance("prompt", self.prompt, str, "a text")))
        if self.seconds is not None and self.latent_frames is not None:
            raise ValueError("give `seconds` or `latent_frames`, not both")
        if self.seconds is None and self.latent_frames is None:
            _set(self, seconds=DEFAULT_SECONDS)
        if self.seconds is not None:
            positive("seconds", self.seconds)
        if self.latent_frames is not None:
            whole_number("latent_frames", self.latent_frames, least=1)
        if not isinstance(self.policy, str | None):
            _set(self, policy=POLICIES.spec(as_policy(self.policy), full=True))
        for name in ("device", "policy"):
            if (text := getattr(self, name)) is not None:
                check_text(instance(name, text, str, "a text"), f"`{name}`")
        for name in ("model", "weights_dir", "prefix"):
            if getattr(self, name) is not None:
                _path(self, name)
        _set(self, loras=tuple(self.loras), then=in_order(self.then))
        for lora in self.loras:
            instance("loras", lora, Lora, "a list of adapters")
        instance("branch", self.branch, Branch | None, "a `Branch`")
        _set(
            self,
            seed=whole_number("seed", self.seed, *SEEDS),
            sample=whole_number("sample", self.sample, 0, SEEDS[1]),
            crf=whole_number("crf", self.crf, 1, 51),
            vram=_gigabytes(self.vram),
            keep_snapshots=whole_number("keep_snapshots", self.keep_snapshots, 0, 1000),
            snapshot_budget=number("snapshot_budget", self.snapshot_budget, least=0, most=1 << 20),
        )
        if self.snapshot_every is not None:
            number("snapshot_every", self.snapshot_every, least=0)
        for name in ("dtype", "vae_dtype"):
            if getattr(self, name) is not None:
                one_of(name, getattr(self, name), DTYPES)
        check_threads(self.threads)
        for name in ("channels_last", "watch_drift", "guard", "trace"):
            flag(name, getattr(self, name))
        _ = self.execution

    @property
    def execution(self) -> Execution:
        """How the video is computed."""
        return Execution(self.attention, self.compile, self.overlap, self.decoder)

    @property
    def memory_limit(self) -> int | None:
        """`vram` in bytes; None for `auto`."""
        return None if isinstance(self.vram, str) else int(self.vram * 2**30)

    @property
    def snapshot_bytes(self) -> int:
        """`snapshot_budget` in bytes."""
        return int(self.snapshot_budget * 2**30)

    @property
    def length(self) -> dict[str, Any]:
        """The length as `plan_video` and the pipeline take it."""
        return {"num_seconds": self.seconds, "num_latent_frames": self.latent_frames}

    def chosen_policy(self, default: str) -> Policy:
        """The policy that is asked for, or the one that `default` describes.

        Raises:
            ValueError: if there is no such policy, or it has no such settings.
        """
        return as_policy(self.policy or default)

    def plan(self, settings: Settings, policy: Policy, *, prefix: int = 0) -> VideoPlan:
        """Check length and policy against a model, and say which chunks it takes.

        Args:
            settings: how the model was trained to be used.
            policy: the chosen one.
            prefix: latent frames that the prefix gives.

        Raises:
            ValueError: if they do not fit together.
        """
        plan = plan_video(settings, policy, prefix=prefix, **self.length)
        changes_by_chunk(self.then, plan.chunks, settings.fps)
        check_policies(self.then, policy, plan.chunks)
        return plan

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON has it, its version included."""
        lists = {
            "loras": [asdict(lora) for lora in self.loras],
            "then": [change.to_dict() for change in self.then],
        }
        return {"version": VERSION, **asdict(self), **lists}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> VideoRequest:
        """The request that `to_dict` described; what is left out has its default.

        Raises:
            ValueError: for an unknown key or version, a wrong type or value, each by its name.
        """
        values = dict(instance("request", given, Mapping, "an object with a `prompt`"))
        version = values.pop("version", VERSION)
        if type(version) is not int or version != VERSION:
            raise ValueError(f"`version` ({version}) of a request must be {VERSION}")
        check_keys("request", values, [f.name for f in fields(cls)])
        if "prompt" not in values:
            raise ValueError("a request must have a `prompt`")
        if "loras" in values:
            loras = instance("loras", values["loras"], list, "a list of adapters")
            values["loras"] = tuple(map(_lora, loras))
        if "then" in values:
            values["then"] = changes_from("then", values["then"])
        if values.get("branch") is not None:
            values["branch"] = Branch.from_dict(values["branch"])
        return cls(**values)


def _lora(given: Any) -> Lora:
    instance("loras", given, Mapping, "a list of adapters")
    check_keys("LoRA", given, [f.name for f in fields(Lora)])
    if "file" not in given:
        raise ValueError("a LoRA must have a `file`")
    return Lora(**given)


def _set(request: Any, **values: Any) -> None:
    """Normalise fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def _path(holder: Any, name: str) -> None:
    """Check a field that is a name or a path, and keep it as text."""
    value = getattr(holder, name)
    as_path(name, value)
    text = os.fspath(value)
    check_text(text, f"`{name}`")
    _set(holder, **{name: text})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _gigabytes(value: float | str) -> float | str:
    """`vram`, as a number or `auto`."""
    if value == "auto":
        return "auto"
    try:
        size = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):  # a whole number may be too large for one
        size = math.nan
    if not 1 <= size * 2**30 < math.inf:
        raise ValueError(f"`vram` ({value}) must be a number of GB, such as 12, 16 or 24, or auto")
    return size


@dataclass(frozen=True)
class VideoPlan:
    """What a video of some length takes.

    Attributes:
        chunks: the latent chunks.
        num_frames: pixel frames of the finished video; what the chunks decode to beyond is cut.
    """

    chunks: Plan
    num_frames: int


def plan_video(
    settings: Settings,
    policy: Policy | str,
    *,
    num_seconds: float | None = None,
    num_latent_frames: int | None = None,
    prefix: int = 0,
    frames_per_latent: int = 4,
) -> VideoPlan:
    """Check length, chunks and policy against each other and the model, before weights are needed.

    Args:
        settings: how the model was trained to be used.
        policy: what it shall remember, or its spec.
        num_seconds: length in seconds; gives exactly round(num_seconds x fps) frames.
        num_latent_frames: length in latent frames n instead; gives 4 n - 3 frames.
        prefix: clean latent frames given, part of the length.
        frames_per_latent: pixel frames a latent frame.

    Raises:
        ValueError: if not exactly one length is given, or sizes do not fit together.
    """
    check_length(num_seconds, num_latent_frames)
    policy = as_policy(policy)
    if policy.budget > settings.window:
        raise ValueError(
            f"the policy's budget ({policy.budget} latent frames) must not exceed the "
            f"{settings.window} that this model was trained on"
        )
    if num_seconds is not None:
        num_frames = frames_for_seconds(num_seconds, settings.fps)
        num_latent_frames = latent_frames(num_frames, frames_per_latent)
    else:
        assert num_latent_frames is not None
        num_frames = pixel_frames(num_latent_frames, frames_per_latent)
        if num_frames > MAX_FRAMES:
            raise ValueError(
                f"`num_latent_frames` ({num_latent_frames}) must be at most "
                f"{latent_frames(MAX_FRAMES, frames_per_latent) - 1}: an mp4 holds no more than "
                f"{MAX_FRAMES} frames"
            )
    if prefix > num_latent_frames:
        raise ValueError(
            f"the prefix ({prefix} latent frames) is longer than the video ({num_latent_frames})"
        )
    plan = Plan(
        num_latent_frames,
        chunk_size=settings.chunk_size,
        first_chunk_size=settings.first_chunk_size,
        prefix=prefix,
    )
    plan.check(policy)
    return VideoPlan(plan, num_frames)


def check_length(num_seconds: float | None, num_latent_frames: int | None) -> None:
    """Check what can be checked of a length without a model; the arguments are `plan_video`'s.

    Raises:
        ValueError: if not exactly one is given, or it is not positive.
    """
    if (num_seconds is None) == (num_latent_frames is None):
        raise ValueError("give a length in seconds or in latent frames, one of the two")
    if num_seconds is not None:
        positive("num_seconds", num_seconds)
    if num_latent_frames is not None:
        whole_number("num_latent_frames", num_latent_frames, least=1)
