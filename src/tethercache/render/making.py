"""One call from a request to the files of its video."""

from __future__ import annotations

import os

from tethercache.render.batch import Job, Resume, check_room
from tethercache.render.durable import latest
from tethercache.render.loading import load
from tethercache.render.order import check, prepare
from tethercache.render.recording import check_recording
from tethercache.request import VideoRequest
from tethercache.video import Sidecar


def make(
    request: VideoRequest,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> Sidecar:
    """Make a video and the record beside it, as `tethercache generate` does.

    Everything is checked before weights are loaded: names, room on the disk, length, policy and
    memory. While frames are made, `NAME.partial.mp4` can be watched. For several videos of one
    model, load it once: `load(prepare(check(request)), prompts)`, then `make` of what that returns.

    Args:
        request: what is asked of the video.
        path: `NAME.mp4`; the record becomes `NAME.json`.
        overwrite: replace an existing video, and what a run that broke off has left.
        resume: go on with what a run that broke off has left, if there is any.

    Returns:
        The record: what was asked and what came out, hashes of all frames included.

    Raises:
        ValueError: if something asked for cannot be; nothing was made.
        TetherCacheError: if a model, tool or memory is missing, or a file is damaged.
        OSError: if the files cannot be written.
    """
    path = check_recording(path, overwrite=overwrite, resume=resume, trace=request.trace)
    order = prepare(check(request))
    check_room([Job(request, path)], order)
    begun = latest(path) if resume else None
    how = Resume.YES if resume else Resume.NO
    loaded = load(order, [request.prompt], like=begun)
    return loaded.make(request, path, overwrite=overwrite, resume=how)
