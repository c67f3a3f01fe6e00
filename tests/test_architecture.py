"""The shape of the code: imports go one way, and the mechanism knows no policy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src/tethercache"
_NAMED = (ast.FunctionDef, ast.ClassDef)
STAGES = (
    "cache",
    "policies",
    "session",
    "backbones",
    "rollout",
    "video",
    "conditioning",
    "prompts",
    "models",
    "fit",
    "script",
    "request",
    "pipeline",
    "evaluation",
    "trace",
    "render",
    "comparison",
    "bench",
    "serve",
    "cli",
)
"""From the ground up: a stage imports those before it, and what belongs to all."""
FREE = {
    "alignment",
    "arguments",
    "errors",
    "files",
    "foreign",
    "lazy",
    "registry",
    "resampling",
    "software",
    "state",
    "text",
    "__version__",
}
MOVED = {"execution", "memory"}
"""Names of the release before, which only warn and point to where things are now."""
# a stage that must be usable without others that come before it
ALONE = {"video": set(), "models": set(), "evaluation": {"video"}, "cache": set()}
LINES = {"cli": 200, "policies": 150}
LONGEST = 400


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tethercache":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tethercache."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("tethercache.")
            }
    return names


def _stage(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports below `nodes` but those for types alone."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield from _statements(ast.iter_child_nodes(node))


def _needs(module: str) -> set[str]:
    """The modules of ours that a module imports to work, now or later."""
    needed = set()
    for node in _statements(ast.parse(MODULES[module].read_text()).body):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif node.module is not None:
            needed |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    packages = {module.rpartition(".")[0], module}
    return (needed & set(MODULES)) - packages


@pytest.mark.parametrize("stage", STAGES)
def test_imports_go_one_way(stage: str) -> None:
    below = ALONE.get(stage, set(STAGES[: STAGES.index(stage)]))
    paths = [path for path in MODULES.values() if _stage(path) == stage]
    assert paths
    for path in paths:
        assert _imports(path) <= below | FREE | {stage}, path


def test_every_stage_has_its_place() -> None:
    known = {*STAGES, *FREE, *MOVED, "__init__", "__main__"}
    assert {_stage(path) for path in MODULES.values()} <= known


def test_no_module_needs_itself() -> None:
    graph = {module: _needs(module) for module in MODULES}
    while leaves := [module for module, needed in graph.items() if not needed & set(graph)]:
        for module in leaves:
            del graph[module]
    assert not graph, "these import each other in a circle"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_long(module: str) -> None:
    path = MODULES[module]
    assert len(path.read_text().splitlines()) <= LINES.get(_stage(path), LONGEST), path


def test_the_package_needs_no_other_folder_of_the_repository() -> None:
    others = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] not in others, path
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & others, path


def test_a_metric_knows_nothing_of_ours_but_the_registry() -> None:
    for path in (SOURCE / "evaluation/metrics").glob("*.py"):
        assert _imports(path) <= {"evaluation", "registry"}, path
        assert "tethercache.evaluation." not in path.read_text().replace(
            "tethercache.evaluation.metrics", ""
        ), path


def test_the_public_names_are_few_and_importable() -> None:
    import tethercache

    assert len(tethercache.__all__) <= 12
    for name in tethercache.__all__:
        assert getattr(tethercache, name) is not None


def test_every_function_of_the_walk_exists() -> None:
    """The table in `docs/architecture.md` that follows a prompt, a policy and a seed."""
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"`(\w[\w/]*\.py): ([\w.]+)`", page)
    assert len(named) > 15
    for file, name in named:
        tree: ast.AST = ast.parse((SOURCE / file).read_text("utf-8"))
        for part in name.split("."):
            inside = {
                node.name: node for node in ast.iter_child_nodes(tree) if isinstance(node, _NAMED)
            }
            assert part in inside, (file, name)
            tree = inside[part]
