"""Text from outside, made fit to show: names of files and words in them come from anywhere."""

from __future__ import annotations

import json
import unicodedata

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str, kept: str = "\n\t") -> str:
    """Text without characters that command a terminal or turn it around: they are shown as escapes.

    Args:
        text: any text, also with the surrogates that stand for bytes that are no UTF-8.
        kept: control characters that stay.
    """
    return "".join(escaped(c) if c not in kept and _is_command(c) else c for c in text)


def one_line(text: str) -> str:
    """The same in one line."""
    return printable(text, kept="")


def reason(error: BaseException) -> str:
    """What an exception says, in one line; its class, if it says nothing."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def escaped(character: str) -> str:
    """A character as JSON has it, so that a line of JSON stays one."""
    return json.dumps(character)[1:-1]


def _is_command(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in _TURNS
    )
