"""`docs/real-models.md` tells the truth: its commands parse, its numbers are the code's."""

from __future__ import annotations

import re

import pytest

from tests import pages, tables
from tests.conftest import ROOT
from tethercache.fit.choice import Machine, Wishes, choose
from tethercache.fit.memory import WAN_1_3B
from tethercache.models import PRESETS
from tethercache.policies import POLICIES
from tethercache.request import plan_video

PAGE = (ROOT / "docs/real-models.md").read_text()
BLOCKS = pages.blocks(PAGE)
COMMANDS = pages.commands(PAGE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_parses(line: str) -> None:
    parsed = pages.parse(line)
    if policy := parsed.get("policy"):
        POLICIES.parse(policy)
    if (model := parsed.get("model")) and "/" not in model:
        assert model in PRESETS


def test_every_table_is_that_of_the_cases_that_are_tested() -> None:
    for name, content in tables.tables().items():
        assert PAGE.count(f"<!-- {name} -->\n{content}\n<!-- /{name} -->") == 1, (
            f"the table {name!r} is old: run `python -m tests.tables`"
        )


def test_the_python_of_the_page_compiles() -> None:
    for language, block in BLOCKS:
        if language == "python":
            compile(block, "real-models.md", "exec")


@pytest.mark.parametrize("name", PRESETS)
def test_every_policy_that_a_note_names_serves_its_model(name: str) -> None:
    preset = PRESETS[name]
    for spec in re.findall(r"`([^`]+)`", preset.note):
        plan_video(preset.settings, spec, num_seconds=60)


def test_the_policies_that_authors_use_serve_their_models() -> None:
    (longlive, reward) = re.findall(r"`--policy (\S+)`", PAGE.partition("## 6.")[2])[:2]
    plan_video(PRESETS["longlive"].settings, longlive, num_seconds=60)
    plan_video(PRESETS["reward-forcing"].settings, reward, num_seconds=60)


def test_a_card_of_12_gb_runs_what_the_page_says() -> None:
    (tiled, whole) = re.findall(r"one with 12 GB `(\S+)` in tiles or `(\S+)` without", PAGE)[0]
    for spec, tiles in ((tiled, True), (f"tethercache:{whole}", False)):
        wishes = Wishes("bfloat16", limit=12 * 2**30)
        placed = choose(WAN_1_3B, POLICIES.parse(spec), Machine("cuda"), wishes)
        assert (placed.tiles is not None) == tiles
