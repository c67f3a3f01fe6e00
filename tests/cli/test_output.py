"""What is printed: in any encoding, for nobody, and without commands to the terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tethercache.cli import main
from tethercache.cli.output import Output
from tethercache.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("视频 é 👩‍🔬\t\n", "视频 é 👩‍🔬\t\n"),
        ("\x1b[31mred\x07", "\\u001b[31mred\\u0007"),
        ("\x9b2J", "\\u009b2J"),
        ("\u202egpm.exe", "\\u202egpm.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_commands_to_a_terminal_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped_as_in_json(encoding: str) -> None:
    raw = io.BytesIO()
    output = Output(io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    text = json.dumps("é 视频 👩\udcff", ensure_ascii=False)
    assert output.write(text) == len(text)
    assert json.loads(raw.getvalue().decode(encoding)) == json.loads(text)


def run(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tethercache", *arguments]
    return subprocess.run(command, text=True, timeout=60, check=False, **streams)  # type: ignore


@pytest.mark.parametrize("wrapper", [False, True], ids=["print", "rich"])
def test_nobody_reads_standard_output(wrapper: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["models", "list"] if wrapper else ["--version"]
    done = run(*arguments, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == "error: standard output: Broken pipe\n"


def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = run("--version", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_nobody_s_business(closed: int) -> None:
    other = {1: "stderr", 2: "stdout"}[closed]
    done = run(
        "models", "show", "nothing", preexec_fn=lambda: os.close(closed), **{other: subprocess.PIPE}
    )
    assert done.returncode == 1
    assert (done.stdout or "") == ""


def test_a_name_in_an_error_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["models", "show", "./\x1b[31mred"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "\\u001b[31mred" in line
