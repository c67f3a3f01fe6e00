"""Several videos at once: their names, and which of them are there already."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tethercache.arguments import as_path, whole_number
from tethercache.errors import TetherCacheError
from tethercache.request import VideoRequest

if TYPE_CHECKING:
    from tethercache.render.order import Order
    from tethercache.render.record import Description

MAX_VIDEOS = 100_000


class Resume(StrEnum):
    """Whether to go on with a video that broke off."""

    NO = "no"
    YES = "yes"
    ANYWAY = "anyway"
    """Also with other software or hardware."""


_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{kind}{i}" for kind in ("com", "lpt") for i in range(10)),
}
"""What Windows takes for devices, whatever follows the first dot."""


class IncompleteBatchError(TetherCacheError):
    """Some of several videos were not made; the others are there."""


@dataclass(frozen=True)
class Job:
    """One video to make.

    Attributes:
        request: what is asked of it.
        path: where it goes.
    """

    request: VideoRequest
    path: Path


def name_videos(
    request: VideoRequest, prompts: Sequence[str], num_samples: int, output: Path | None
) -> list[Job]:
    """Name every video: one as `output` says, several by their prompts in that folder.

    Args:
        request: what is asked of all of them, but for prompt and sample.
        prompts: at least one.
        num_samples: videos of each.
        output: an mp4 or a folder for one video, a folder for several; None: named by the prompt,
            or the folder `videos`.

    Raises:
        ValueError: the numbers or the names cannot be used.
    """
    whole_number("num_samples", num_samples, least=1)
    if (total := len(prompts) * num_samples) > MAX_VIDEOS:
        raise ValueError(f"a batch ({total} videos) must have at most {MAX_VIDEOS}")
    if total == 1:
        path = output or Path()
        if path.is_dir():
            path /= f"{slug(prompts[0])}.mp4"
        elif path.suffix != ".mp4":
            raise ValueError(f"--output ({path}) must end in .mp4 or be a folder that exists")
        return [Job(replace(request, prompt=prompts[0]), path)]
    folder = output or Path("videos")
    if folder.suffix == ".mp4" and not folder.is_dir():
        raise ValueError(f"with several videos --output ({folder}) must be a folder")
    return [
        Job(
            replace(request, prompt=text, sample=sample),
            folder / f"{index:03d}-{slug(text)}-{sample}.mp4",
        )
        for index, text in enumerate(prompts)
        for sample in range(num_samples)
    ]


def check_folder(folder: Path) -> None:
    """Refuse the folder of a batch if it is none, or cannot be made.

    Raises:
        ValueError: it is no path, or its name is too long.
        OSError: a file is in its place, or nothing may be written there.
    """
    existing = folder = as_path("folder", folder)
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"the folder name `{folder}` is too long") from None
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        message = "no permission to write in this folder"
        raise PermissionError(errno.EACCES, message, str(existing))


def check_names(
    jobs: Sequence[Job], *, overwrite: bool, resume: Resume = Resume.NO
) -> dict[Path, OSError]:
    """Check where videos go.

    Args:
        jobs: the videos.
        overwrite: replace what is there.
        resume: whether to go on with what broke off, and to leave alone what is complete.

    Returns:
        What stands in the way of some of several, by their paths: the others can be made; or of
        one that may only have to be completed.

    Raises:
        ValueError: a name cannot be used.
        OSError: the folder, or the only video, cannot be written.
    """
    from tethercache.render.recording import check_recording, unnamed

    folder = jobs[0].path.parent
    if len(jobs) > 1:
        check_folder(folder)
        if not folder.exists():
            return {}
    blocked = {}
    for job in jobs:
        try:
            going_on = resume is not Resume.NO
            check_recording(job.path, overwrite=overwrite, resume=going_on, trace=job.request.trace)
        except OSError as error:
            may_be_made = unnamed(job.path) is not None or (
                resume is not Resume.NO and job.path.is_file()
            )
            if len(jobs) == 1 and not may_be_made:
                raise
            blocked[job.path] = error
    return blocked


def made_before(
    jobs: Sequence[Job], order: Order, blocked: Collection[Path], *, overwrite: bool
) -> list[Path]:
    """The videos of these requests that are there, after those are completed that lack a name.

    Args:
        jobs: the videos.
        order: of their requests.
        blocked: paths that `check_names` named; elsewhere no complete video is looked for.
        overwrite: replace an older video when one is completed.
    """
    from tethercache.render.record import describe

    asked = describe(order, jobs[0].path.parent)
    kept = [
        job
        for job in jobs
        if _complete(job, asked, overwrite) or (job.path in blocked and _is_made(job, asked))
    ]
    for job in kept:
        _tidy(job)
    return [job.path for job in kept]


def _tidy(job: Job) -> None:
    """Remove the snapshots that a run which broke off at its very end has left."""
    from tethercache.render.snapshots import Snapshots, snapshot_folder
    from tethercache.video.target import partial_path

    if not partial_path(job.path).exists():
        Snapshots(snapshot_folder(job.path), budget=job.request.snapshot_bytes).finish()


def _is_made(job: Job, asked: Description) -> bool:
    """Whether a complete video is there, and its record says that it is of this request."""
    from tethercache.trace.file import trace_path
    from tethercache.video import SidecarError, UnreadableVideoError, probe, read_sidecar

    if job.request.trace and not trace_path(job.path).is_file():
        return False
    try:
        record, video = read_sidecar(job.path), probe(job.path)
    except (OSError, SidecarError, UnreadableVideoError):
        return False
    return video.num_frames == record.num_frames and asked.answers(record, job.request)


def _complete(job: Job, asked: Description, overwrite: bool) -> bool:
    """Complete a video of this request whose frames are all made, but which has not got its name.

    Returns:
        Whether there was one.
    """
    from tethercache.render.recording import complete, unnamed

    record = unnamed(job.path)
    if record is None or not asked.answers(record, job.request):
        return False
    complete(job.path, overwrite=overwrite)
    return True


def check_room(jobs: Sequence[Job], order: Order) -> None:
    """Refuse to begin where the disk has no room for the videos and their snapshots.

    Raises:
        DiskFullError: less is free than they are expected to take.
    """
    from tethercache.files import check_space
    from tethercache.video.mp4 import expected_bytes

    settings, request = order.parts.settings, jobs[0].request
    size = expected_bytes(order.plan.num_frames, settings.width, settings.height, request.crf)
    # a video is there twice when it is completed, and a new snapshot before an old one goes
    kept = request.keep_snapshots and request.keep_snapshots + 1
    snapshots = kept * _snapshot_bytes(order) + request.snapshot_bytes
    advice = f"; --keep-snapshots 0 needs {snapshots / 1e6:,.1f} MB less" if kept else ""
    check_space(jobs[0].path.parent, (len(jobs) + 1) * size + snapshots, advice)


def _snapshot_bytes(order: Order) -> int:
    """What a snapshot is likely to take, with a full cache."""
    from tethercache.fit import measure
    from tethercache.fit.choice import BYTES
    from tethercache.fit.memory import cache_bytes, decode_bytes

    usual = "float32" if order.device == "cpu" else "bfloat16"
    element, sizes = BYTES[order.request.dtype or usual], measure(order.parts)
    cache = cache_bytes(sizes, budget=order.policy.budget, element=element, rotated=False)
    return cache + decode_bytes(sizes, element=element)[0]


def slug(prompt: str, length: int = 60) -> str:
    """A file name for a prompt: ASCII letters, digits and hyphens, and no device of Windows."""
    spaced = re.sub(r"\s", " ", prompt)
    plain = unicodedata.normalize("NFKD", spaced).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:length].strip("-") or "video"
    return f"{name}-video" if name in _DEVICES else name
