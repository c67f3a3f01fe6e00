"""Traces: what the cache did while a video was made, its file, and a page to look at it.

`Tracer` turns what banks tell into JSON, a chunk at a time; `memory_of` sums a chunk up; a trace
file (`trace/file.py`) holds all chunks of a video.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.lazy import exports

if TYPE_CHECKING:
    from tethercache.trace.file import read_trace, trace_path
    from tethercache.trace.observer import Tracer
    from tethercache.trace.summary import memory_of, roles

__all__ = ["Tracer", "memory_of", "read_trace", "roles", "trace_path"]

__getattr__ = exports(
    __name__,
    {
        "Tracer": "observer",
        "memory_of": "summary",
        "read_trace": "file",
        "roles": "summary",
        "trace_path": "file",
    },
)
