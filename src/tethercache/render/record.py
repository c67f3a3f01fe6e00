"""From a request to the record beside its video, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tethercache.models import SHIPPED, find
from tethercache.policies import POLICIES
from tethercache.render.order import Order
from tethercache.request import Lora, VideoRequest
from tethercache.rollout.plan import first_frame
from tethercache.script import begins
from tethercache.text import reason
from tethercache.video import Sidecar, read_sidecar, shareable
from tethercache.video.mp4 import DEFAULT_CRF


@dataclass(frozen=True)
class Description:
    """What the records of an order's videos say of what was asked, but for prompt and sample.

    Attributes:
        fields: of a `Sidecar`.
        settings: of its `settings`.
    """

    fields: Mapping[str, Any]
    settings: Mapping[str, Any]

    def answers(self, record: Sidecar, request: VideoRequest) -> bool:
        """Whether a record is of this request.

        What was made before `crf` was a setting had its default.
        """
        wanted = {"prompt": request.prompt, "sample": request.sample, **self.fields}
        noted = {"crf": DEFAULT_CRF, **record.settings}
        return all(getattr(record, key) == value for key, value in wanted.items()) and all(
            noted.get(key) == self.settings.get(key)
            for key in ("loras", "prefix", "crf", "changes")
        )


def describe(order: Order, folder: Path) -> Description:
    """What a record in `folder` says of an order."""
    request = shared(order.request, folder)
    settings: dict[str, Any] = {"crf": request.crf}
    if request.then:
        fps = order.parts.settings.fps
        settings["changes"] = begins(request.then, order.plan.chunks, fps)
    if request.loras:
        settings["loras"] = [
            {"file": told.file, "scale": told.scale, "sha256": order.hashes[lora.file]}
            for told, lora in zip(request.loras, order.request.loras, strict=True)
        ]
    if order.request.prefix is not None:
        sha = order.hashes[order.request.prefix]
        settings["prefix"] = {"file": request.prefix, "sha256": sha}
    fields = {
        "model": request.model,
        "policy": POLICIES.spec(order.policy, full=True),
        "seed": request.seed,
        "num_frames": order.plan.num_frames,
    }
    return Description(fields, settings)


def shared(request: VideoRequest, folder: Path) -> VideoRequest:
    """A request whose paths are those of a record in `folder`; see `shareable`."""

    def told(path: str | None) -> str | None:
        return None if path is None else shareable(path, folder)

    is_local = request.model not in SHIPPED and find(request.model).path is not None
    return replace(
        request,
        model=shareable(request.model, folder) if is_local else request.model,
        weights_dir=told(request.weights_dir),
        prefix=told(request.prefix),
        branch=request.branch and request.branch.at_path(shareable(request.branch.video, folder)),
        loras=tuple(replace(lora, file=shareable(lora.file, folder)) for lora in request.loras),
    )


def request_of(video: str | os.PathLike[str]) -> VideoRequest:
    """The request of a video that was made, from the record beside it.

    A record of version 0.1.0 holds none; it is made of what the record says of the video.

    Args:
        video: the video or its record; paths in the record are relative to its folder.

    Raises:
        FileNotFoundError: there is no record.
        ValueError: it is damaged, or of a request that is not known.
    """
    return request_from(read_sidecar(video), Path(video).parent)


def request_from(record: Sidecar, folder: Path) -> VideoRequest:
    """The request in a record; its paths are relative to `folder`.

    Raises:
        ValueError: it is damaged, or not known.
    """
    request = VideoRequest.from_dict(record.request) if record.request else _first_version(record)
    at = request.model
    if at not in SHIPPED and os.path.exists(folder / at):
        at = os.path.normpath(folder / at)

    def here(path: str | None) -> str | None:
        return None if path is None else os.path.normpath(folder / path)

    loras = (replace(lora, file=os.path.normpath(folder / lora.file)) for lora in request.loras)
    return replace(
        request,
        model=at,
        weights_dir=here(request.weights_dir),
        prefix=here(request.prefix),
        branch=request.branch
        and request.branch.at_path(os.path.normpath(folder / request.branch.video)),
        loras=tuple(loras),
    )


def _first_version(record: Sidecar) -> VideoRequest:
    """The request of a record of version 0.1.0."""
    noted = record.settings
    try:
        loras = tuple(Lora(lora["file"], lora["scale"]) for lora in noted.get("loras", ()))
        prefix = noted["prefix"]["file"] if "prefix" in noted else None
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the record's adapters or prefix are damaged: {reason(error)}") from error
    names = ("attention", "compile", "decoder", "vae_dtype", "channels_last", "threads", "crf")
    return VideoRequest(
        prompt=record.prompt,
        seconds=float(record.num_frames / record.fps),
        policy=record.policy,
        model=record.model,
        loras=loras,
        prefix=prefix,
        seed=record.seed,
        sample=record.sample,
        device="cpu" if record.device == "cpu" else "cuda",
        dtype=record.dtype,
        watch_drift="drift" in noted,
        **{name: noted[name] for name in names if name in noted},
    )


def cut_short(record: Sidecar, chunks: int) -> Sidecar:
    """The record of a video that ends after so many of its chunks.

    It is that of a shorter request, which makes the same frames.
    """
    sizes = record.chunk_sizes[:chunks]
    frames = min(first_frame(sum(sizes)), record.num_frames)
    settings, request = dict(record.settings), dict(record.request)
    if "changes" in settings:
        settings["changes"] = [each for each in settings["changes"] if each["frame"] < frames]
    if request:
        kept = len(settings.get("changes", ()))
        request |= {"then": request.get("then", [])[:kept], "latent_frames": None}
        request["seconds"] = float(frames / record.fps)
    return replace(
        record,
        chunk_sizes=sizes,
        num_latent_frames=sum(sizes),
        num_frames=frames,
        settings=settings,
        request=request,
    )
