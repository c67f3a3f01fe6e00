"""What a generation starts from besides a prompt: adapters and a clip."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.arguments import number
from tethercache.errors import MissingModelError
from tethercache.files import sha256
from tethercache.models import Settings
from tethercache.request import VideoPlan, plan_video

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.cache import Policy
    from tethercache.fit.memory import Tiles

logger = logging.getLogger(__name__)

_SAME_RATE = 0.01


@dataclass(frozen=True)
class Clip:
    """A clip or picture to start from.

    Attributes:
        path: the file.
        num_frames: as many as can be decoded; as many as it says, until they are counted.
        width: pixels.
        height: pixels.
        fps: frames a second; means nothing for a picture.
        counted: whether it was decoded.
    """

    path: Path
    num_frames: int
    width: int
    height: int
    fps: Fraction
    counted: bool = False


def parse_loras(specs: list[str]) -> list[tuple[Path, float]]:
    """`FILE[:SCALE]` to files and scales.

    Raises:
        MissingModelError: if a file is not there.
        ValueError: if a scale is NaN or infinite.
    """
    loras = []
    for spec in specs:
        name, colon, text = spec.rpartition(":")
        try:
            path, scale = (Path(name), float(text)) if colon else (Path(spec), 1.0)
        except ValueError:  # a colon that is part of the name
            path, scale = Path(spec), 1.0
        if not os.path.exists(path):  # says no, too, to names that the system refuses
            raise MissingModelError(f"no LoRA at {path}")
        number("the scale of --lora", scale)
        loras.append((path, scale))
    return loras


def read_prefix(path: Path) -> Clip:
    """What a clip or picture says that it has; decodes nothing.

    Raises:
        ValueError: if it cannot be read.
    """
    from tethercache.video import probe

    if os.path.exists(path) and not path.is_file():  # a pipe would wait for somebody to fill it
        raise ValueError(f"--prefix ({path}) must be a file")
    info = probe(path)
    return Clip(path, info.num_frames, info.width, info.height, info.fps)


def plan_with_prefix(
    clip: Clip | None, settings: Settings, policy: Policy, length: dict[str, Any]
) -> tuple[VideoPlan, Clip | None]:
    """Plan a video that starts with a clip.

    What the clip says of itself is compared with the video first; then it is decoded once, to find
    damage and to count its frames, and nothing of it is kept.

    Raises:
        ValueError: if the clip is not one to start from, or the video cannot be planned.
    """
    plan = plan_video(settings, policy, prefix=prefix_latents(clip, settings), **length)
    if clip is None or clip.counted:
        return plan, clip
    clip = replace(clip, num_frames=_count(clip), counted=True)
    return plan_video(settings, policy, prefix=prefix_latents(clip, settings), **length), clip


def _count(clip: Clip) -> int:
    """The frames that can be decoded, up to the first of another size."""
    from tethercache.video import read_frames

    count = 0
    for frame in read_frames(clip.path):
        if frame.shape[:2] != (clip.height, clip.width):
            raise ValueError(f"--prefix ({clip.path}) has frames of several sizes")
        count += 1
    return count


def prefix_latents(clip: Clip | None, settings: Settings) -> int:
    """The latent frames that a clip gives, 0 without one.

    Raises:
        ValueError: if its size is not that of the video.
    """
    if clip is None:
        return 0

    from tethercache.conditioning import prefix_frames

    if (clip.width, clip.height) != (settings.width, settings.height):
        raise ValueError(
            f"--prefix is {clip.width}x{clip.height}, but this model makes {settings.width}x"
            f"{settings.height}; scale or crop it first"
        )
    return (prefix_frames(clip.num_frames, settings.chunk_size) + 3) // 4


def warn_of_rate(clip: Clip, settings: Settings) -> None:
    """Say so if a clip, whose frames are taken one for one, will play at another speed."""
    if clip.num_frames > 1 and abs(clip.fps / settings.fps - 1) > _SAME_RATE:
        logger.warning(
            "--prefix has %.4g frames a second and this model makes %d, so the clip will play at "
            "%.2f times its speed; convert it first to keep that",
            clip.fps,
            settings.fps,
            settings.fps / clip.fps,
        )


def encode_prefix(vae: Any, clip: Clip, settings: Settings) -> Tensor:
    """The latents `[1, C, F, h, w]` of the last frames of a clip that make whole chunks."""
    import torch

    from tethercache.conditioning import encode_frames, prefix_frames
    from tethercache.video import read_frames

    skipped = clip.num_frames - prefix_frames(clip.num_frames, settings.chunk_size)
    return encode_frames(vae, map(torch.from_numpy, islice(read_frames(clip.path), skipped, None)))


def describe_extras(
    loras: list[tuple[Path, float]], prefix: Path | None, folder: Path
) -> dict[str, Any]:
    """What of these a sidecar in `folder` has to record."""
    from tethercache.video import shareable

    extras: dict[str, Any] = {}
    if loras:
        extras["loras"] = [
            {"file": shareable(path, folder), "scale": scale, "sha256": _sha256(path)}
            for path, scale in loras
        ]
    if prefix is not None:
        extras["prefix"] = {"file": shareable(prefix, folder), "sha256": _sha256(prefix)}
    return extras


def describe_tiles(tiles: Tiles | None) -> dict[str, Any]:
    """What of the decoding tiles a sidecar has to record."""
    return {} if tiles is None else {"tiles": {"size": tiles.size, "stride": tiles.stride}}


def _sha256(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    return sha256(*([path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))))
