"""The package as a stranger gets it: what is in the wheel, and what its files say of each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import tethercache
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(name: str) -> dict[str, str]:
    """Name and version of each line of a constraints file."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, version in found}


def requirements(*extras: str) -> list[Requirement]:
    """The main dependencies and those of some extras, other extras left out."""
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    parsed = [Requirement(text) for text in texts]
    return [one for one in parsed if one.name != "tethercache"]


def test_the_version_is_the_same_everywhere() -> None:
    version = tethercache.__version__
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[0]
    assert newest == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    assert f"today {version.rpartition('.')[0]}." in (ROOT / "SECURITY.md").read_text("utf-8")


def test_every_lower_bound_is_the_version_that_was_tried() -> None:
    tried = pins("constraints-lowest.txt")
    for one in requirements("lora", "gguf", "train", "eval"):
        (bound,) = [each.version for each in one.specifier if each.operator == ">="]
        found = tried[one.name.lower().replace("_", "-")]
        assert found.split(".")[: len(bound.split("."))] == bound.split("."), one.name


def test_every_dependency_is_pinned() -> None:
    pinned = pins("constraints.txt")
    extras = PROJECT["optional-dependencies"]
    for one in requirements(*extras):
        assert one.specifier.contains(pinned[one.name.lower().replace("_", "-")]), one.name


def test_before_a_commit_runs_what_make_check_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]


@pytest.mark.parametrize("template", ["bug.yml", "idea.yml"])
def test_an_issue_template_has_fields_with_labels(template: str) -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / template).read_text("utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields)
    assert all(field["attributes"]["label"] for field in form["body"])


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tethercache res", {"resume"}),
        ("tethercache generate x --policy mem", {"memrope", "memflow"}),
        ("tethercache generate x --policy tethercache+com", {"tethercache+commit-read"}),
        ("tethercache generate x --model self-forcing", {"self-forcing", "self-forcing-sid"}),
    ],
)
def test_the_shell_completes_commands_policies_and_models(typed: str, offered: set[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    ask = {"_TETHERCACHE_COMPLETE": "complete_bash", **words}
    program = "import sys; sys.argv = ['tethercache']; from tethercache.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | ask,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.slow
def test_wheel_and_sdist_are_whole_and_the_wheel_makes_a_video(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    build = [sys.executable, "-m", "build", "-q", "--no-isolation", "-o", str(dist), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    names = zipfile.ZipFile(wheel).namelist()
    inside = {"py.typed", "models/tiny/transformer/config.json", "evaluation/templates/report.html"}
    assert {f"tethercache/{name}" for name in inside} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "tethercache",
        f"tethercache-{tethercache.__version__}.dist-info",
    }

    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    command = ["-m", "tethercache", "generate", "a red ball rolling over grass"]
    subprocess.run(
        [sys.executable, *command, "--seconds", "1", "-o", "ball.mp4"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    assert (folder / "ball.mp4").stat().st_size > 1000
