"""The videos of one request: their names, and which of them are there already."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.arguments import whole_number
from tethercache.errors import TetherCacheError

if TYPE_CHECKING:
    from tethercache.video import Sidecar

MAX_VIDEOS = 100_000

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
        prompt: what it shows.
        sample: number of the sample for this prompt, from 0.
        path: where it goes.
    """

    prompt: str
    sample: int
    path: Path


def name_videos(prompts: Sequence[str], num_samples: int, output: Path | None) -> list[Job]:
    """Name every video: one as `output` says, several by their prompts in that folder.

    Args:
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
        return [Job(prompts[0], 0, path)]
    folder = output or Path("videos")
    if folder.suffix == ".mp4" and not folder.is_dir():
        raise ValueError(f"with several videos --output ({folder}) must be a folder")
    return [
        Job(text, sample, folder / f"{index:03d}-{slug(text)}-{sample}.mp4")
        for index, text in enumerate(prompts)
        for sample in range(num_samples)
    ]


def check_folder(folder: Path) -> None:
    """Refuse the folder of a batch if it is none, or cannot be made.

    Raises:
        ValueError: its name is too long.
        OSError: a file is in its place, or nothing may be written there.
    """
    existing = folder
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


def is_made(job: Job, request: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a complete video is there, and its record says that it is of this request.

    Args:
        job: the video.
        request: fields of a `Sidecar` and their values, but for prompt and sample.
        settings: of its `settings`, those that a request may have: `loras`, `prefix` and `crf`.
    """
    from tethercache.video import SidecarError, UnreadableVideoError, probe, read_sidecar

    try:
        record, video = read_sidecar(job.path), probe(job.path)
    except (OSError, SidecarError, UnreadableVideoError):
        return False
    return video.num_frames == record.num_frames and _answers(record, job, request, settings)


def complete_made(
    job: Job, request: Mapping[str, Any], settings: Mapping[str, Any], *, overwrite: bool
) -> bool:
    """Complete a video of this request whose frames are all made, but which has not got its name.

    Args:
        job: the video.
        request: see `is_made`.
        settings: see `is_made`.
        overwrite: replace an older video of this name.

    Returns:
        Whether there was one.
    """
    from tethercache.video import complete, unnamed

    record = unnamed(job.path)
    if record is None or not _answers(record, job, request, settings):
        return False
    complete(job.path, overwrite=overwrite)
    return True


def _answers(
    record: Sidecar, job: Job, request: Mapping[str, Any], settings: Mapping[str, Any]
) -> bool:
    """Whether a record is of this request; what came before `crf` was a setting had its default."""
    from tethercache.video.mp4 import DEFAULT_CRF

    wanted = {"prompt": job.prompt, "sample": job.sample, **request}
    noted = {"crf": DEFAULT_CRF, **record.settings}
    return all(getattr(record, key) == value for key, value in wanted.items()) and all(
        noted.get(key) == settings.get(key) for key in ("loras", "prefix", "crf")
    )


def slug(prompt: str, length: int = 60) -> str:
    """A file name for a prompt: ASCII letters, digits and hyphens, and no device of Windows."""
    spaced = re.sub(r"\s", " ", prompt)
    plain = unicodedata.normalize("NFKD", spaced).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain)[:length].strip("-") or "video"
    return f"{name}-video" if name in _DEVICES else name
