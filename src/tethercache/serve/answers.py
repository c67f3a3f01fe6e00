"""Videos as clients see them; docs/serve.md says what each field means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tethercache.rollout.plan import frames_for_seconds, pixel_frames
from tethercache.serve.asking import model_settings
from tethercache.serve.desk import Desk, Status, Video


def video_object(video: Video, desk: Desk) -> dict[str, Any]:
    """A video, as JSON."""
    request, known = video.request, video.known
    settings, policy = model_settings(request.model)
    num_frames = known.get("num_frames") or _frames(video, settings.fps)
    made = known.get("frames_made", 0)
    done = video.status is Status.COMPLETED
    parent = None
    if video.parent is not None:
        parent = {"video": video.parent, "at": video.parent_at}
    return {
        "id": video.id,
        "object": "video",
        "model": request.model,
        "status": video.status.value,
        "progress": 100 if done else min(99, 100 * made // num_frames),
        "created_at": int(video.created_at),
        "completed_at": None if video.completed_at is None else int(video.completed_at),
        "expires_at": None,
        "error": video.error,
        "prompt": request.prompt,
        "seconds": f"{num_frames / settings.fps:.6g}",
        "size": f"{settings.width}x{settings.height}",
        "remixed_from_video_id": video.remixed,
        "live": video.live,
        "paused": known.get("paused", False),
        "fps": settings.fps,
        "num_frames": num_frames,
        "frames_made": made,
        "chunks_made": known.get("chunks_made", 0),
        "num_chunks": known.get("num_chunks"),
        "bytes": known.get("bytes", 0),
        "epoch": known.get("epoch", 0),
        "position": desk.position(video),
        "speed": known.get("speed"),
        "policy": known.get("policy") or request.policy or policy,
        "seed": request.seed,
        "crf": request.crf,
        "watch_drift": request.watch_drift,
        "guard": request.guard,
        "changes": known.get("changes", [change.to_dict() for change in request.then]),
        "parent": parent,
        "branches": desk.branches(video.id),
        "verdict": known.get("verdict"),
        "frames_hash": known.get("frames_hash"),
    }


def _frames(video: Video, fps: int) -> int:
    """How many frames a video will have."""
    request = video.request
    if request.latent_frames is not None:
        return pixel_frames(request.latent_frames)
    assert request.seconds is not None
    return frames_for_seconds(request.seconds, fps)


def list_object(data: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of things that have an `id`."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
