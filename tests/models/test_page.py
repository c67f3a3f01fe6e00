"""`docs/real-models.md` tells the truth: its commands parse, its numbers are the code's."""

from __future__ import annotations

import re

import pytest

from tests import pages
from tests.conftest import ROOT
from tethercache.fit.memory import WAN_1_3B, Tiles, estimate
from tethercache.models import PRESETS
from tethercache.policies import POLICIES

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


def test_every_preset_is_in_the_table_with_its_file_size_and_licence() -> None:
    for name, preset in PRESETS.items():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` ")]
        assert f"`{preset.transformer.repository}`" in row
        for file in filter(None, (preset.transformer, preset.lora)):
            assert f"`{file.path}`" in row
            assert file.size is None or f"{file.size:,}" in row
        assert preset.licence.split(" on the ")[0] in row


def test_the_memory_table_is_the_arithmetic() -> None:
    rows = re.findall(r"^\| `(tethercache\S*)` \| (\d+) \| (.*) \|$", PAGE, re.M)
    assert len(rows) == 4
    for spec, budget, numbers in rows:
        policy = POLICIES.parse(spec)
        assert policy.budget == int(budget)
        sizes = {"budget": policy.budget, "hidden": policy.reserve(3)}
        plain, on_read = estimate(WAN_1_3B, **sizes), estimate(WAN_1_3B, **sizes, rotated=False)
        tiled = estimate(WAN_1_3B, **sizes, rotated=False, tiles=Tiles())
        decode = plain.features + plain.work
        expected = (
            *(plain.weights, plain.cache, decode, plain.overhead, plain.total),
            *(on_read.total, tiled.total),
        )
        for shown, value in zip(numbers.split(" | "), expected, strict=True):
            assert float(shown) == pytest.approx(value / 1e9, abs=0.06), (spec, shown, value)


def test_the_python_of_the_page_compiles() -> None:
    for language, block in BLOCKS:
        if language == "python":
            compile(block, "real-models.md", "exec")
