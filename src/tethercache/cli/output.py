"""What reaches the terminal: any text in any encoding, whoever reads it, and no hidden commands."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from tethercache.text import escaped, printable

_ESCAPE = "tethercache.escape"


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(escaped, error.object[error.start : error.end])), error.end


codecs.register_error(_ESCAPE, _escape_unencodable)


class PrintableFormatter(logging.Formatter):
    """Messages of the log, as `printable` text."""

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        return printable(super().format(record))


class Output:
    """A standard stream that never fails: what it cannot encode is escaped.

    What nobody reads, because the other end of a pipe is closed or a disk is full, is dropped, so
    that work goes on; `error` says so at the end.

    Args:
        stream: such as `sys.stdout`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, or drop it; returns its length."""
        encoding = self._stream.encoding or "utf-8"
        with self._dropping():
            self._stream.write(text.encode(encoding, _ESCAPE).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand what is written to the system, or drop it."""
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError, ValueError):  # what is still in its buffer goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[Output]:
    """Standard output and error as `Output` in the block; yields that of standard output.

    Where the caller has closed one, Python has None, and it leads nowhere.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        output, error = (Output(stream or nowhere) for stream in before)
        sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, error)
        try:
            yield output
        finally:
            output.flush()
            error.flush()
            sys.stdout, sys.stderr = before


def quiet_libraries() -> None:
    """Keep the loading bars and hints of diffusers and transformers out of our output."""
    import diffusers
    import transformers

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its download bars stay
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
