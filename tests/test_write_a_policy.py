"""The tutorial is followed block by block, with a toy model in the place of the shipped one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.conftest import ROOT
from tethercache.cli.app import run
from tethercache.policies import POLICIES

PAGE = (ROOT / "docs/write-a-policy.md").read_text("utf-8")


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """The blocks of the page in order; those that are files are written, then given out, too."""
    for language, block in pages.blocks(PAGE):
        name, _, content = block.removeprefix("# ").partition("\n")
        if language in ("python", "toml") and block.startswith("# "):
            with (folder / name.removesuffix(", continued")).open("a") as file:
                file.write(f"\n{content}" if name.endswith("continued") else content)
        yield language, block


def install(folder: Path) -> None:
    """Tell Python of a package in a folder, as an installer does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    there = folder / f"{name}-{version}.dist-info"
    there.mkdir()
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (there / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where packages are found, and a registry that has not yet looked for any."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    groups = {"tethercache.policies": False, "tethercache.wrappers": True}
    monkeypatch.setattr(POLICIES, "_entries", dict(POLICIES._entries))
    monkeypatch.setattr(POLICIES, "_groups", groups)
    yield tmp_path
    sys.modules.pop("evenly", None)


def test_every_block_of_the_tutorial_works(
    fresh: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran: list[str] = []
    for language, block in written(fresh):
        lines = block.splitlines() if language == "bash" else []
        for words in map(shlex.split, lines):
            if words[0] == "pip":
                install(fresh)
            elif words[0] == "tethercache":
                words += ["--model", str(model)] if words[1] == "generate" else []
                assert run(words[1:]) == 0, words
            else:  # its second line is for a checkout, and runs in the test below
                assert words[:4] == ["python", "-m", "pytest", "-q"]
                if words[4].startswith("test_"):
                    assert pytest.main(["-q", "-p", "no:cacheprovider", *words[4:]]) == 0
            ran.append(words[1] if words[0] == "tethercache" else words[0])
        if language == "python" and not block.startswith("# "):
            told = block.replace("seed=5", f"seed=5, model={str(model)!r}")
            exec(compile(told, "write-a-policy.md", "exec"), {})
            ran.append("python block")
    assert ran == [
        *("pip", "policies", "generate", "generate", "python block", "trace", "trace", "trace"),
        *("python block", "python", "python"),
    ]
    said = capsys.readouterr().out
    assert "from evenly 0.1" in said
    assert (fresh / "even.trace.html").is_file()
    assert run(["generate", "x", "--policy", "evenly:recent=2", "--model", str(model)]) == 2
    assert "`recent` (2) must be at least the chunk (3)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_package_of_the_tutorial_is_installed_and_keeps_the_contract(tmp_path: Path) -> None:
    for _ in written(tmp_path):
        pass
    there = tmp_path / "installed"
    command = ["install", "--no-deps", "--no-build-isolation", "--quiet", "--target", there]
    subprocess.run([sys.executable, "-m", "pip", *command, tmp_path], check=True)
    paths = [str(there), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    (line,) = [line for line in PAGE.splitlines() if line.endswith("-k evenly")]
    for drawn in (line, line.replace("test_contract", "test_geometries").replace("evenly", "any_")):
        done = subprocess.run(
            [sys.executable, *shlex.split(drawn)[1:], "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout


def test_a_name_that_is_taken_or_no_name_is_left_out_and_said(fresh: Path) -> None:
    for number, point in enumerate(("fifo = evenly:Evenly", "Two Words = evenly:Evenly")):
        there = fresh / f"other{number}-1.dist-info"
        there.mkdir()
        (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: other{number}\nVersion: 1\n")
        (there / "entry_points.txt").write_text(f"[tethercache.policies]\n{point}\n")
    with pytest.warns(UserWarning, match="is left out") as said:
        names = list(POLICIES)
    assert {str(each.message)[:8] for each in said} == {"other0 1", "other1 1"}
    assert not POLICIES["fifo"].package
    assert "Two Words" not in names


def test_what_cannot_be_loaded_is_refused_where_it_is_asked_for(fresh: Path) -> None:
    there = fresh / "gone-1.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1\n")
    (there / "entry_points.txt").write_text("[tethercache.wrappers]\nold = no_such_module:Old\n")
    with pytest.raises(ValueError, match="`old` of gone 1 cannot be loaded: No module named"):
        POLICIES.parse("sink + old")
    with pytest.raises(ValueError, match="`old` changes another one"):
        POLICIES.parse("old")
    assert POLICIES.spec(POLICIES.parse("sink + recency")) == "sink + recency"
