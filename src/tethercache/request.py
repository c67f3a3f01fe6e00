"""What is asked for, checked before anything is loaded: loads no torch of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tethercache.arguments import positive, whole_number
from tethercache.policies import as_policy
from tethercache.rollout import Plan, frames_for_seconds, latent_frames, pixel_frames
from tethercache.rollout.plan import MAX_FRAMES

if TYPE_CHECKING:
    from tethercache.cache import Policy
    from tethercache.models import Settings


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
