"""The clip or picture that a video starts with."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.models import Settings
from tethercache.request import VideoPlan, VideoRequest

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.cache import Policy

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


def read_prefix(path: Path) -> Clip:
    """What a clip or picture says that it has; decodes nothing.

    Raises:
        ValueError: if it cannot be read.
    """
    from tethercache.video import probe

    if os.path.exists(path) and not path.is_file():  # a pipe would wait for somebody to fill it
        raise ValueError(f"`prefix` ({path}) must be a file")
    info = probe(path)
    return Clip(path, info.num_frames, info.width, info.height, info.fps)


def plan_with_prefix(
    request: VideoRequest, clip: Clip | None, settings: Settings, policy: Policy
) -> tuple[VideoPlan, Clip | None]:
    """Plan a video that starts with a clip.

    What the clip says of itself is compared with the video first; then it is decoded once, to find
    damage and to count its frames, and nothing of it is kept.

    Raises:
        ValueError: if the clip is not one to start from, or the video cannot be planned.
    """
    plan = request.plan(settings, policy, prefix=prefix_latents(clip, settings))
    if clip is None or clip.counted:
        return plan, clip
    clip = replace(clip, num_frames=_count(clip), counted=True)
    return request.plan(settings, policy, prefix=prefix_latents(clip, settings)), clip


def _count(clip: Clip) -> int:
    """The frames that can be decoded, up to the first of another size."""
    from tethercache.video import read_frames

    count = 0
    for frame in read_frames(clip.path):
        if frame.shape[:2] != (clip.height, clip.width):
            raise ValueError(f"`prefix` ({clip.path}) has frames of several sizes")
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
            f"`prefix` ({clip.path}) is {clip.width}x{clip.height}, but this model makes "
            f"{settings.width}x{settings.height}; scale or crop it first"
        )
    return (prefix_frames(clip.num_frames, settings.chunk_size) + 3) // 4


def warn_of_rate(clip: Clip, settings: Settings) -> None:
    """Say so if a clip, whose frames are taken one for one, will play at another speed."""
    if clip.num_frames > 1 and abs(clip.fps / settings.fps - 1) > _SAME_RATE:
        logger.warning(
            "`prefix` has %.4g frames a second and this model makes %d, so the clip will play at "
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
