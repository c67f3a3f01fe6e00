"""How failures reach the user: one line on stderr and an exit status."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from tethercache.errors import TetherCacheError
from tethercache.text import printable

_debugging = False


def _set_debug(value: bool) -> None:
    global _debugging
    _debugging = _debugging or value


Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks of errors.", callback=_set_debug)
]
"""An option that every command has, so that it can be appended to a failed command line."""

FAILED, USAGE = 1, 2
CLOSED_PIPE = 141
"""What a shell says of programs that end because nobody reads their output."""


def report(error: BaseException, *, where: str = "") -> int:
    """Print an error in one line (with `--debug`, its traceback before it); returns the status.

    Args:
        error: what happened.
        where: the file that it happened to, named unless the error does it.
    """
    if _debugging:
        traceback.print_exception(error)
    line = _one_line(error)
    if where not in line:
        line = f"{where}: {line}"
    print(f"error: {printable(line)}", file=sys.stderr)
    return USAGE if _is_usage(error) else FAILED


def report_output(error: OSError) -> int:
    """Say that nobody reads the standard output; returns the status."""
    print(f"error: standard output: {error.strerror}", file=sys.stderr)
    return CLOSED_PIPE if isinstance(error, BrokenPipeError) else FAILED


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    formatted = getattr(error, "format_message", None)  # Typer's errors name the option
    message = (formatted() if formatted else str(error)) or type(error).__name__
    if _expected(error):
        return " ".join(message.split())
    return f"{type(error).__name__}: {' '.join(message.split())} (use --debug for the traceback)"


def _is_usage(error: BaseException) -> bool:
    return isinstance(error, ValueError | FileExistsError | typer.exceptions.TyperException)


def _expected(error: BaseException) -> bool:
    return _is_usage(error) or isinstance(error, TetherCacheError)
