"""The README tells the truth: its commands parse, its table and tree are those of the code."""

from __future__ import annotations

import re

import pytest

from tests import pages
from tests.conftest import ROOT
from tethercache.policies import POLICIES
from tools import readme

README = (ROOT / "README.md").read_text()
BLOCKS = pages.blocks(README)
COMMANDS = pages.commands(README)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line: str) -> None:
    parsed = pages.parse(line)
    if policy := parsed.get("policy"):
        POLICIES.parse(policy)


def test_the_policy_table_is_the_registry() -> None:
    assert readme.renewed(README) == README, "run `python -m tools.readme`"
    assert all(f"`{name}`" in README or f" {name}`" in README for name in POLICIES)


def test_everything_in_the_file_tree_exists_and_no_stage_is_missing() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    (tree,) = [b for _, b in pages.blocks(page) if b.startswith("src/tethercache/\n")]
    inside = re.findall(r"^  (\S+) ", tree, re.M)
    assert all((ROOT / "src/tethercache" / name).exists() for name in inside)
    assert all((ROOT / name).exists() for name in re.findall(r"^(\w\S*) ", tree, re.M))
    stages = [p.parent.name for p in (ROOT / "src/tethercache").glob("*/__init__.py")]
    assert {f"{stage}/" for stage in stages} <= set(inside)


def test_it_can_be_read_in_two_minutes() -> None:
    assert len(README.splitlines()) <= 120


def test_every_number_that_was_measured_has_its_command_and_result() -> None:
    """A paragraph with a measured number names a command and links to a result."""
    prose = re.sub(r"```.*?```|<!-- policies -->.*?<!-- /policies -->", "", README, flags=re.S)
    for paragraph in prose.split("\n\n"):
        if re.search(r"\b[01]\.\d\d\b|\d+ %|\d+ frames a second", paragraph):
            assert re.search(r"`(python|tethercache|make) ", paragraph), paragraph
            assert re.search(r"\]\([^)]+\.(json|txt)\)", paragraph), paragraph


def test_the_python_of_the_readme_compiles() -> None:
    for language, block in BLOCKS:
        if language == "python":
            compile(block, "README.md", "exec")


def test_links_inside_the_project_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
