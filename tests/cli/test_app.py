"""What holds for every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from tethercache.cli.app import app


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All commands by their full names, those inside of groups included."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for key, child in inner.items():
        yield from commands(child, f"{name} {key}".strip())


def test_debug_can_be_appended_to_every_command() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert {"generate", "policies", "models list"} <= set(found)
    lacking = [
        name
        for name, command in found.items()
        if not any("--debug" in parameter.opts for parameter in command.params)
    ]
    assert lacking == []
