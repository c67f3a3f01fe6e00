"""Prompts as people have them: an argument, or a file of text with one a line."""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from pathlib import Path

from tethercache.arguments import as_path

STANDARD_INPUT = Path("-")

_MAX_BYTES = 16 << 20  # of a file of prompts
_MARKS = (  # that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK = "\ufeff"


def check_prompt(text: str, name: str = "the prompt") -> str:
    """A prompt without white space and byte order marks around it.

    Args:
        text: as it was given.
        name: how an error calls it.

    Raises:
        ValueError: it is empty, holds control characters, or was no text.
    """
    check_text(text, name)
    prompt = text.strip().strip(_MARK).strip()
    if not prompt:
        raise ValueError(f"{name} must not be empty")
    for character in prompt:
        if unicodedata.category(character) == "Cc" and not character.isspace():
            raise ValueError(
                f"{name} must not hold control characters, but has U+{ord(character):04X}"
            )
    return prompt


def check_text(text: str, name: str) -> None:
    """Refuse what the system could not decode: Python has surrogates in the place of such bytes.

    Raises:
        ValueError: there are some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not text in UTF-8: {text!a}") from None


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file, one a line, in their order.

    Lines end with LF, CR LF or CR and with nothing else. Empty lines, and lines that begin with
    `#`, are skipped. The file is UTF-8, or begins with the byte order mark of UTF-16 or UTF-32.

    Args:
        file: its path; `-` is standard input.

    Raises:
        ValueError: it is no path, cannot be read, is not text, or has no prompts.
    """
    name, text = read_text(file, "the prompts", _MAX_BYTES)
    lines = re.split(r"\r\n|\n|\r", text)
    prompts = []
    for number, line in enumerate(lines, start=1):
        content = line.strip().strip(_MARK).strip()
        if content and not content.startswith("#"):
            prompts.append(check_prompt(content, f"{name}, line {number}: the prompt"))
    if not prompts:
        raise ValueError(f"{name} has no prompts")
    return prompts


def read_text(file: Path, what: str, most: int) -> tuple[str, str]:
    """The name of a file for messages, and the text in it, in the encodings of `read_prompts`.

    Args:
        file: its path; `-` is standard input.
        what: what it holds, such as "the prompts".
        most: bytes that it may have.

    Raises:
        ValueError: it is no path, cannot be read, is not text or too large.
    """
    file = as_path("file", file)
    name = "standard input" if file == STANDARD_INPUT else str(file)
    try:
        if file != STANDARD_INPUT:
            with file.open("rb") as stream:
                content = stream.read(most + 1)
        elif sys.stdin is not None:
            content = sys.stdin.buffer.read(most + 1)
        else:
            raise ValueError(f"cannot read {what}: standard input is closed")
    except OSError as error:
        raise ValueError(f"cannot read {what} in {name}: {error.strerror}") from None
    if len(content) > most:
        raise ValueError(f"{name} must not be larger than {most >> 20} MiB")
    return name, _decode(content, name)


def _decode(content: bytes, name: str) -> str:
    found = (entry for entry in _MARKS if content.startswith(entry[0]))
    mark, encoding = next(found, (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].decode(encoding).count("\n") + 1
        byte = error.object[error.start]
        raise ValueError(
            f"{name} is not text in {encoding.upper()}: line {line} holds the byte 0x{byte:02x} "
            "where it means nothing; convert the file first"
        ) from None
