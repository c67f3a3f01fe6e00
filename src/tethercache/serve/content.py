"""Bytes of videos: whole or in a range, complete or still growing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from tethercache.serve.errors import ApiError

_PART = 64 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class Content:
    """A file that is open.

    Attributes:
        descriptor: to read it by; whoever serves it closes it.
        size: bytes that may be read.
        tag: names what is in it: the bytes before `size` never change while it is the same.
        mime: what is in it.
        name: what to save it as.
    """

    descriptor: int
    size: int
    tag: str
    mime: str
    name: str

    @classmethod
    def of(cls, path: Path, tag: str, mime: str) -> Content:
        """A file that grows no more.

        Raises:
            FileNotFoundError: there is none.
        """
        descriptor = os.open(path, os.O_RDONLY)
        return cls(descriptor, os.fstat(descriptor).st_size, tag, mime, path.name)


def serve(request: Request, content: Content) -> Response:
    """Answer with a file, or with the range of it that is asked for.

    Raises:
        ApiError: nothing of the range is there.
    """
    tag = f'"{content.tag}"'
    headers = {
        "etag": tag,
        "accept-ranges": "bytes",
        "cache-control": "no-cache",
        "content-disposition": f'inline; filename="{content.name}"',
    }
    known = [each.strip() for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        os.close(content.descriptor)
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, content.size, 200
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked and request.headers.get("if-range", tag) == tag and any(asked.groups()):
        start, stop = _span(asked[1], asked[2], content.size)
        if not 0 <= start < stop:
            os.close(content.descriptor)
            message = f"there are {content.size} bytes"
            raise ApiError(
                416, message, headers={"content-range": f"bytes */{content.size}", "etag": tag}
            )
        headers["content-range"] = f"bytes {start}-{stop - 1}/{content.size}"
        status = 206
    headers["content-length"] = str(stop - start)
    if request.method == "HEAD":
        os.close(content.descriptor)
        return Response(status_code=status, headers=headers, media_type=content.mime)
    parts = _Parts(content.descriptor, start, stop)
    return StreamingResponse(parts, status, headers, media_type=content.mime)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


class _Parts(Iterator[bytes]):
    """The bytes of a span, part by part; a client that leaves closes the file, too."""

    def __init__(self, descriptor: int, start: int, stop: int) -> None:
        self._descriptor: int | None = descriptor
        self._start = start
        self._stop = stop

    def __next__(self) -> bytes:
        if self._descriptor is None or self._start >= self._stop:
            self.close()
            raise StopIteration
        part = os.pread(self._descriptor, min(_PART, self._stop - self._start), self._start)
        if not part:  # frames were taken back meanwhile: the connection breaks off
            self.close()
            raise OSError("the file is shorter now")
        self._start += len(part)
        return part

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()
