"""What shall be made, as `generate` is told: a prompt, a file of prompts, or prompts over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tethercache.prompts import check_prompt, read_prompts
from tethercache.rollout.actions import HOWS
from tethercache.script import Change, in_order, read_script

Then = Annotated[
    list[str] | None,
    typer.Option(
        metavar="'SECOND [HOW]: TEXT'",
        help=f"From this second on another prompt, such as '20: a blue cube'; HOW is "
        f"{', '.join(HOWS[:-1])} or {HOWS[-1]}. May be given several times.",
    ),
]
ScriptFile = Annotated[
    Path | None,
    typer.Option(
        "--script",
        metavar="FILE",
        help="A YAML file of prompts over time, instead of a prompt; - is standard input.",
    ),
]


@dataclass(frozen=True)
class Asked:
    """Prompts of the videos, their length, and what changes over time."""

    prompts: list[str]
    seconds: float | None
    latent_frames: int | None
    then: tuple[Change, ...] = ()


def read(
    prompt: str | None,
    prompts: Path | None,
    script: Path | None,
    then: list[str] | None,
    seconds: float | None,
    latent_frames: int | None,
) -> Asked:
    """What flags and files say together.

    Raises:
        ValueError: if they say too little, too much, or what cannot be.
    """
    given = [name for name in (prompt, prompts, script) if name is not None]
    if len(given) != 1:
        raise ValueError(
            "give a prompt, a file of prompts with --prompts, or a script with --script, one of "
            "the three"
        )
    if then and prompt is None:
        raise ValueError("--then goes with a prompt, not with --prompts or --script")
    if prompts is not None:
        return Asked(read_prompts(prompts), seconds, latent_frames)
    if prompt is not None:
        changes = in_order([Change.parse(text) for text in then or ()])
        return Asked([check_prompt(prompt)], seconds, latent_frames, changes)
    assert script is not None
    read = read_script(script)
    lengths = (read.seconds, read.latent_frames)
    if lengths == (None, None):
        lengths = (seconds, latent_frames)
    elif (seconds, latent_frames) != (None, None):
        raise ValueError(f"{script} says how long the video is, so no flag can")
    return Asked([read.prompt], *lengths, read.then)
