"""A video is made again from its record, and compared with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tethercache.render.batch import Job, check_room
from tethercache.render.branch import Take
from tethercache.render.durable import circumstances
from tethercache.render.order import check, prepare
from tethercache.video import Sidecar
from tethercache.video.target import check_target

if TYPE_CHECKING:
    from tethercache.render.loading import Loaded
    from tethercache.render.recording import Recording

_INPUTS = ("model_hash", "policy")
_LEVELS = ("sigmas", "first_sigmas", "context_noise", "flow_shift")
_INPUT_SETTINGS = ("loras", "prefix", *_LEVELS, "decoder")


@dataclass(frozen=True)
class Reproduction:
    """What came of making a video again.

    Attributes:
        record: of the new one.
        first_difference: number of the first chunk whose frames differ; None: all are the same.
        causes: what differs in inputs, software or hardware, and may be why.
    """

    record: Sidecar
    first_difference: int | None
    causes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether all frames are the same, bit for bit."""
        return self.first_difference is None


def reproduce(
    video: Path,
    output: Path | None = None,
    *,
    begun: Callable[[Loaded], None] = lambda loaded: None,
    told: Callable[[Recording], None] = lambda recording: None,
) -> Reproduction:
    """Make a video again as its record says, with its number format and threads.

    Args:
        video: `NAME.mp4` or its record.
        output: where the new one goes; None: it is deleted once it is compared.
        begun: is called when the model is loaded.
        told: is called when a chunk of frames is in the file.

    Raises:
        ValueError: the record is of a video that was never finished, or damaged.
        TetherCacheError: the model cannot be had, or does not fit.
    """
    from tethercache.render.loading import load

    take = Take.find(video)
    if not take.record.is_complete:
        raise ValueError(f"{take.path} was never finished; `tethercache resume` goes on with it")
    if output is not None:
        check_target(output)
    order = prepare(check(take.request))
    with tempfile.TemporaryDirectory(prefix="tethercache-") as folder:
        path = output or Path(folder) / take.path.name
        check_room([Job(take.request, path)], order)
        loaded = load(order, [take.request.prompt], like=take.record)
        begun(loaded)
        record = loaded.make(take.request, path, told=told)
    return compare(take.record, record)


def compare(before: Sidecar, again: Sidecar) -> Reproduction:
    """Compare the frames of two records of one request, and what they were made with."""
    first = None
    if before.frames_hash != again.frames_hash:
        pairs = zip(before.chunk_hashes, again.chunk_hashes, strict=False)
        shorter = min(len(before.chunk_hashes), len(again.chunk_hashes))
        first = next((i for i, (old, new) in enumerate(pairs) if old != new), shorter)
    changed = [name for name in _INPUTS if getattr(before, name) != getattr(again, name)]
    changed += [
        name for name in _INPUT_SETTINGS if before.settings.get(name) != again.settings.get(name)
    ]
    causes = (*(f"another {name}" for name in changed), *circumstances(before, again))
    return Reproduction(again, first, causes)
