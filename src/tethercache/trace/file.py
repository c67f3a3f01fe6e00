"""Trace files: `NAME.trace.jsonl.gz` beside `NAME.mp4`.

JSON lines, compressed: `zcat NAME.trace.jsonl.gz` shows them. The first line is the header,

    {"format": "tethercache-trace", "version": 1, "prompt", "policy", "seed", "sample", "budget",
     "fps", "frames_per_latent"}

then comes one line a chunk: what `Tracer.take` returns (`trace/observer.py`), and `sha256`, the
hash of the chunk's frames, as the record of the video has it. Each line is a gzip member of its
own. So the file is whole after every chunk, can be cut back to any border between chunks, and is
written in constant memory; while the video is made it is `NAME.partial.trace.jsonl.gz`.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tethercache.errors import TetherCacheError
from tethercache.files import (
    check_free,
    create,
    disk_full_advice,
    open_existing,
    remove_open,
    write_all,
)

FORMAT = "tethercache-trace"
VERSION = 1
SUFFIX = ".trace.jsonl.gz"
_LONGEST = 64 << 20
_PART = 1 << 16
_ADVICE = "free some space and go on with --resume"


class DamagedTraceError(TetherCacheError):
    """A file is no trace, or not one that is whole and known."""


class LostTraceError(TetherCacheError):
    """The trace of an unfinished video does not hold what it should."""


def trace_path(video: str | os.PathLike[str]) -> Path:
    """Where the trace of `NAME.mp4` is: `NAME.trace.jsonl.gz`."""
    return Path(video).with_suffix(SUFFIX)


class TraceWriter:
    """Writes a trace, line by line.

    Args:
        path: the file, which nothing has yet; or what there is of it.
        header: the first line.
        start: bytes after which to go on, what `position` was; None: begin.

    Raises:
        LostTraceError: the file does not hold so many bytes.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], start: int | None = None) -> None:
        self.path = path
        if start is None:
            path.unlink(missing_ok=True)  # what a run that broke off has left
            self._file: BinaryIO = create(path)
            self.position = 0
            try:
                self.write({"format": FORMAT, "version": VERSION, **header})
            except BaseException:
                self.discard()
                raise
        else:
            try:
                self._file = open_existing(path)
            except FileNotFoundError as error:
                raise LostTraceError(f"{path} is gone") from error
            self.position = start
            if os.fstat(self._file.fileno()).st_size < start:
                self._file.close()
                raise LostTraceError(f"{path} has lost its end")
            self.rewind(start)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        text = json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n"
        member = gzip.compress(text.encode(), 6, mtime=0)
        with disk_full_advice(self.path, _ADVICE):
            write_all(self._file, member)
        self.position += len(member)

    def rewind(self, position: int) -> None:
        """Forget what was written since `position` was this."""
        self._file.truncate(position)
        self._file.seek(position)
        self.position = position

    def sync(self) -> None:
        """Wait until the disk has all lines."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; its name stays."""
        self._file.close()

    def discard(self) -> None:
        """Delete the file."""
        remove_open(self._file, self.path)


def copy_start(source: Path, target: Path, position: int) -> None:
    """Let `target` be what `source` was at a `position`.

    Raises:
        LostTraceError: it is not there, or not so long.
    """
    target.unlink(missing_ok=True)
    try:
        with open_existing(source) as there, create(target) as here:
            left = position
            while left and (part := there.read(min(left, 1 << 20))):
                write_all(here, part)
                left -= len(part)
    except FileNotFoundError as error:
        raise LostTraceError(f"{source} is gone") from error
    if left:
        target.unlink()
        raise LostTraceError(f"{source} has lost its end")


def name_trace(partial: Path, video: Path, *, overwrite: bool) -> None:
    """Give the trace of a partial video the name that belongs to the complete one, if there is one.

    It may have happened already.
    """
    made, wanted = trace_path(partial), trace_path(video)
    if made.exists():
        check_free(wanted, overwrite=overwrite)
        made.replace(wanted)


def read_trace(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Read a trace, chunk by chunk; memory does not depend on its length.

    Args:
        path: a trace, or that of an unfinished video, whose last line may be broken off.

    Returns:
        The header, and the chunks.

    Raises:
        FileNotFoundError: there is none.
        DamagedTraceError: it is none, or of another version; for a chunk, once it is reached.
    """
    lines = _lines(Path(path))
    header = next(lines, {})
    if header.get("format") != FORMAT:
        raise DamagedTraceError(f"{path} is no trace of TetherCache")
    if header.get("version") != VERSION:
        raise DamagedTraceError(
            f"{path} is a trace of version {header.get('version')}, but this knows {VERSION}"
        )
    return header, _chunks(Path(path), lines)


def _chunks(path: Path, lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines):
        if not {"chunk", "start", "stop", "layers"} <= line.keys() or line["chunk"] != number:
            raise DamagedTraceError(f"{path} is damaged at chunk {number}")
        yield line


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The object of JSON in each member; what is broken off at the end is left out."""
    with path.open("rb") as file:
        for text in _members(path, file):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DamagedTraceError(f"{path} is damaged: {error}") from error
            if not isinstance(line, dict):
                raise DamagedTraceError(f"{path} is damaged: a line is no object")
            yield line


def _members(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """What each whole gzip member holds."""
    packed = file.read(_PART)
    while packed:
        member, text = zlib.decompressobj(zlib.MAX_WBITS + 16), bytearray()
        while not member.eof:
            try:
                text += member.decompress(packed, _LONGEST + 1 - len(text))
            except zlib.error as error:
                raise DamagedTraceError(f"{path} is no trace, or damaged: {error}") from error
            if len(text) > _LONGEST:
                raise DamagedTraceError(f"{path} has a line of more than {_LONGEST >> 20} MB")
            packed = member.unconsumed_tail or (b"" if member.eof else file.read(_PART))
            if not packed and not member.eof:
                return
        yield bytes(text)
        packed = member.unused_data or file.read(_PART)
