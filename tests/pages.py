"""Pages of documentation as tests read them: their code blocks and the commands in these."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

from tethercache.cli.app import app


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every code block."""
    return re.findall(r"```(\w*)\n(.*?)```", page, re.S)


def commands(page: str) -> list[str]:
    """Every line of a code block that calls `tethercache`."""
    lines = [line for _, block in blocks(page) for line in block.splitlines()]
    return [line for line in lines if line.startswith("tethercache ")]


def parse(line: str) -> dict[str, Any]:
    """The parameters of a command line, parsed as the program does, but not run."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    context = command.make_context("tethercache", words[:1], resilient_parsing=True)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    parameters: dict[str, Any] = command.make_context("command", words, parent=context).params
    return parameters
