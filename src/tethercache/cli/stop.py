"""Ctrl-C, SIGTERM and SIGHUP: one line and an exit status, whenever they come and however often.

The first signal raises `Stopped`, so that files are closed and processes ended on the way out. A
second one, or a first one while a module is being imported, where exceptions get lost, ends this
process at once. So does the clock, if the way out takes long. Nothing is lost by that: what this
project writes is whole at every moment, even after a `kill -9`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_PATIENCE = 10.0  # seconds
_IMPORTING = "<frozen importlib._bootstrap>"
_CLEAR_LINE_AND_SHOW_CURSOR = b"\r\x1b[2K\x1b[?25h"


class Stopped(BaseException):
    """A signal has asked this process to stop."""


class _State:
    """What has happened in this process.

    Attributes:
        signal: number of the first signal; 0: none has come.
        said: whether the line about it is printed.
        left: what the user should know of files that are left.
    """

    signal = 0
    said = False
    left = ""


def stopped() -> bool:
    """Whether a signal has come, whatever has become of its exception."""
    return _State.signal != 0


def leaves(text: str) -> None:
    """Tell what the line about a signal shall say of files that are left."""
    _State.left = text


@contextmanager
def stopping(*, for_good: bool) -> Iterator[None]:
    """Answer signals in the block; a stopped one raises `SystemExit` with 128 + the signal.

    Args:
        for_good: whether the process ends after the block. If it was stopped, it then ends without
            the interpreter's farewell, in which threads of libraries may crash; else later signals
            have their plain effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _open_standard_descriptors()
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    answered = [number for number in numbers if before[number] is not signal.SIG_IGN]
    clock = threading.Timer(_PATIENCE, _end)
    clock.daemon = True

    def answer(number: int, frame: FrameType | None) -> None:
        first, _State.signal = not stopped(), _State.signal or number
        if not first or _is_importing(frame):
            _end()
        clock.start()
        raise Stopped

    _State.signal, _State.said, _State.left = 0, False, ""
    for number in answered:
        signal.signal(number, answer)
    try:
        yield
    except BaseException:  # an interrupted library may raise anything
        if not stopped():
            raise
    if stopped():
        _say()
        if for_good:
            _end()
        clock.cancel()
    for number in answered:
        signal.signal(number, signal.SIG_DFL if for_good else before[number])
    if stopped():
        raise SystemExit(128 + _State.signal)


def _open_standard_descriptors() -> None:
    """Let no file of ours get the number of a standard stream that the caller has closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _say() -> None:
    """Print the line, past all layers of Python's and of Rich's, once."""
    if _State.said:
        return
    _State.said = True
    name = signal.Signals(_State.signal).name
    what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    line = f"error: {what}{_State.left and '; '}{_State.left}\n"
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _CLEAR_LINE_AND_SHOW_CURSOR)
        os.write(2, line.encode(errors="backslashreplace"))


def _end() -> NoReturn:
    """End this process now, and those that it has started."""
    _say()
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children, util

        for child in active_children():
            child.kill()
        # else its helper process complains of what was not cleaned up
        util._exit_function()  # type: ignore[attr-defined]
    os._exit(128 + _State.signal)
