"""The README tells the truth: its commands parse, its table and tree are those of the code."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from tests.conftest import ROOT
from tethercache.cli.app import app
from tethercache.policies import POLICIES

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
COMMANDS = [
    line for _, block in BLOCKS for line in block.splitlines() if line.startswith("tethercache ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    group = typer.main.get_command(app)
    with group.make_context("tethercache", words[:1], resilient_parsing=True) as context:
        command = group.get_command(context, words[0])
        assert command is not None
        parsed = command.make_context(words[0], words[1:], parent=context)
    if policy := parsed.params.get("policy"):
        POLICIES.parse(policy)


def test_the_policy_table_is_the_registry() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", README, re.M)
    assert rows == [
        (
            name,
            ", ".join(f"{k}={v}" for k, v in POLICIES.fields(name).items()),
            POLICIES[name].summary,
        )
        for name in POLICIES
    ]


def test_everything_in_the_file_tree_exists_and_no_stage_is_missing() -> None:
    (tree,) = [block for _, block in BLOCKS if block.startswith("src/tethercache/\n")]
    inside = re.findall(r"^  (\S+) ", tree, re.M)
    assert all((ROOT / "src/tethercache" / name).exists() for name in inside)
    assert all((ROOT / name).exists() for name in re.findall(r"^(\w\S*) ", tree, re.M))
    stages = [p.parent.name for p in (ROOT / "src/tethercache").glob("*/__init__.py")]
    assert {f"{stage}/" for stage in stages} <= set(inside)


def test_the_python_of_the_readme_compiles() -> None:
    for language, block in BLOCKS:
        if language == "python":
            compile(block, "README.md", "exec")


def test_links_inside_the_project_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
