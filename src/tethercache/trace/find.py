"""From the name of a video or of its trace to both of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tethercache.rollout.plan import first_frame
from tethercache.trace.file import SUFFIX, read_trace, trace_path
from tethercache.video.sidecar import SidecarError, read_sidecar
from tethercache.video.target import partial_path


@dataclass(frozen=True)
class Found:
    """A trace that is there.

    Attributes:
        path: the trace.
        video: the mp4 beside it; None: there is none.
    """

    path: Path
    video: Path | None

    def read(
        self, start: float = 0.0, stop: float | None = None
    ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """The header, and the chunks that show anything of the seconds `start` to `stop`.

        Raises:
            DamagedTraceError: see `read_trace`.
        """
        header, chunks = read_trace(self.path)
        fps, each = header.get("fps", 16.0), header.get("frames_per_latent", 4)

        def inside(chunk: Mapping[str, Any]) -> bool:
            begins = first_frame(chunk["start"], each) / fps
            ends = first_frame(chunk["stop"], each) / fps
            return ends > start and (stop is None or begins < stop)

        return header, (chunk for chunk in chunks if inside(chunk))

    def belongs(self, chunk: Mapping[str, Any]) -> bool:
        """Whether the video's frames are those of which a chunk of the trace is, if that is known.

        The record of a video that is not finished has no hashes yet.
        """
        if self.video is None:
            return False
        try:
            hashes = read_sidecar(self.video).chunk_hashes
        except (OSError, SidecarError):
            return True
        here = hashes[chunk["chunk"] :]
        return not here or bool(here[0] == chunk.get("sha256"))


def find_trace(path: str | os.PathLike[str]) -> Found:
    """The trace of a video, finished or not.

    Args:
        path: the video, `NAME.mp4`; or the trace, `NAME.trace.jsonl.gz`; or either's partial file.

    Raises:
        FileNotFoundError: there is none.
    """
    given = Path(path)
    if given.name.endswith(SUFFIX):
        traces, videos = [given], [given.with_name(given.name.removesuffix(SUFFIX) + ".mp4")]
    else:
        videos = [given, partial_path(given)]
        traces = [trace_path(video) for video in videos]
    trace = next((each for each in traces if each.is_file()), None)
    if trace is None:
        message = "there is no trace; `tethercache generate --trace` writes one"
        raise FileNotFoundError(errno.ENOENT, message, str(traces[0]))
    return Found(trace, next((video for video in videos if video.is_file()), None))
