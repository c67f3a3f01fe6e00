"""Text as it is: nothing split, cut or kept that is not in it."""

from __future__ import annotations

import codecs
import io
import os
from pathlib import Path

import pytest

from tethercache.prompts import check_prompt, read_prompts


def prompts(folder: Path, content: bytes) -> list[str]:
    file = folder / "prompts.txt"
    file.write_bytes(content)
    return read_prompts(file)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_their_ends_alone(tmp_path: Path, end: str) -> None:
    strange = "a\u2028b\u2029c\vd\fe\x85f\x1cg\x1dh\x1ei"
    text = f"  one\t{end}{end}{strange}{end} # a comment{end}#{end}two # not one{end}"
    assert prompts(tmp_path, text.encode()) == ["one", strange, "two # not one"]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(
    tmp_path: Path, mark: bytes, encoding: str
) -> None:
    assert prompts(tmp_path, mark + "ein Würfel\n球\n".encode(encoding)) == ["ein Würfel", "球"]


def test_the_marks_of_joined_files_are_no_text_either(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + b"one\n" + codecs.BOM_UTF8 + b"two\n" + codecs.BOM_UTF8 + b"# no\n"
    assert prompts(tmp_path, content) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "prompts.txt has no prompts"),
        (b"\n \n# nothing\n", "prompts.txt has no prompts"),
        (b"one\nein W\xfcrfel\n", r"not text in UTF-8: line 2 holds the byte 0xfc"),
        ("eins\n".encode("utf-16-le"), r"line 1: .* control characters, but has U\+0000"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8\x41\x00", "not text in UTF-16-LE"),
        (codecs.BOM_UTF16_LE + b"a", "not text in UTF-16-LE"),
        (b"one\n\x1b[31mred\n", r"line 2: .* but has U\+001B"),
        (b"\x7fELF", r"but has U\+007F"),
        (b"a" * (17 << 20), "must not be larger than 16 MiB"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts(tmp_path, content)


def test_a_file_without_end_is_refused() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(ValueError, match="must not be larger"):
        read_prompts(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["nothing.txt", "."])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot read the prompts in"):
        read_prompts(tmp_path / name)


def test_a_hyphen_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\ufeffone\r\nzwölf".encode())))
    assert read_prompts(Path("-")) == ["one", "zwölf"]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        read_prompts(Path("-"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must not be empty"),
        (" \u2028\ufeff ", "must not be empty"),
        ("a\x00b", r"U\+0000"),
        ("a\x9bb", r"U\+009B"),
        (os.fsdecode(b"W\xfcrfel"), "is not text in UTF-8"),
    ],
)
def test_a_prompt_is_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"the prompt .*{message}"):
        check_prompt(text)


def test_a_prompt_keeps_what_is_in_it() -> None:
    assert check_prompt("\ufeff a\tred\nball 👩‍🔬 \r\n") == "a\tred\nball 👩‍🔬"
