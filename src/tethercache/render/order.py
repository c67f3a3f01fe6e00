"""A request and all that is found out of it before weights are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tethercache.errors import MissingModelError
from tethercache.evaluation import need
from tethercache.files import sha256
from tethercache.fit import pick_device
from tethercache.fit.execution import require_compiler
from tethercache.models import Model, Parts, fetch, find
from tethercache.render.prefix import Clip, plan_with_prefix, read_prefix
from tethercache.request import VideoPlan, VideoRequest

if TYPE_CHECKING:
    from tethercache.cache import Policy


@dataclass(frozen=True)
class Checked:
    """A request that was checked as far as that goes without the files of its model.

    Attributes:
        request: what is asked.
        model: what the model's name means.
        policy: what the model shall remember.
        device: where to compute.
        clip: what the video starts with.
    """

    request: VideoRequest
    model: Model
    policy: Policy
    device: str
    clip: Clip | None


@dataclass(frozen=True)
class Order:
    """A request that can be carried out: its model's files are here, and everything fits together.

    Attributes:
        request: what is asked.
        parts: the files of the model.
        policy: what the model shall remember.
        plan: chunks and length.
        device: where to compute.
        clip: what the video starts with.
        hashes: SHA-256 of adapters and clip, by their paths.
    """

    request: VideoRequest
    parts: Parts
    policy: Policy
    plan: VideoPlan
    device: str
    clip: Clip | None
    hashes: Mapping[str, str]


def check(request: VideoRequest) -> Checked:
    """Find the model and check against it whatever can be, without fetching anything.

    Raises:
        MissingModelError: if there is no such model or adapter.
        MissingToolError: if a compiler or a package is needed and not there.
        ValueError: if something asked for cannot be, or does not fit together.
    """
    model = find(request.model)
    for lora in request.loras:
        if not os.path.exists(lora.file):  # says no, too, to names that the system refuses
            raise MissingModelError(f"no LoRA at {lora.file}")
    clip = read_prefix(Path(request.prefix)) if request.prefix is not None else None
    policy = request.chosen_policy(model.policy)
    if model.settings is not None:
        _, clip = plan_with_prefix(request, clip, model.settings, policy)
    if request.watch_drift or request.guard:
        need("eval")
    device = pick_device(request.device)
    if request.compile:
        require_compiler(device)
    return Checked(request, model, policy, device, clip)


def prepare(checked: Checked) -> Order:
    """Fetch the model's files, read what the adapters say, and plan the video.

    Raises:
        TetherCacheError: if a file cannot be had or is not what it has to be.
        ValueError: if model, policy, length and prefix do not fit together.
    """
    from tethercache.models.checkpoints.lora import read_lora, require_peft

    request, preset = checked.request, checked.model.preset
    if request.loras or (preset is not None and preset.lora is not None):
        require_peft()
    for lora in request.loras:
        read_lora(Path(lora.file))
    weights_dir = Path(request.weights_dir) if request.weights_dir is not None else None
    parts = fetch(checked.model, weights_dir)
    plan, clip = plan_with_prefix(request, checked.clip, parts.settings, checked.policy)
    files = [lora.file for lora in request.loras]
    files += [request.prefix] if request.prefix is not None else []
    return Order(
        request=request,
        parts=parts,
        policy=checked.policy,
        plan=plan,
        device=checked.device,
        clip=clip,
        hashes={file: _hash(Path(file)) for file in files},
    )


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder."""
    return sha256(*([path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))))
