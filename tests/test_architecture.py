"""The shape of the code: imports go one way, and the mechanism knows no policy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src/tethercache"
# a stage may import itself and the stages listed; those in `FREE` belong to all
MAY_IMPORT = {
    "cache": set(),
    "policies": {"cache"},
    "session": {"cache"},
    "backbones": {"cache", "policies", "session"},
    "rollout": {"cache", "session"},
    "video": set(),
    "conditioning": {"video"},
    "models": set(),
    "fit": {"cache", "models", "policies"},
    "request": {"cache", "fit", "models", "policies", "prompts", "rollout"},
    "inputs": {"cache", "policies", "request", "rollout"},
    "pipeline": {
        "backbones",
        "cache",
        "conditioning",
        "fit",
        "inputs",
        "models",
        "policies",
        "request",
        "rollout",
        "video",
    },
    "prompts": set(),
    "evaluation": {"video"},
    "render": {
        "backbones",
        "cache",
        "conditioning",
        "evaluation",
        "fit",
        "models",
        "pipeline",
        "policies",
        "request",
        "rollout",
        "video",
    },
    "bench": {
        "backbones",
        "cache",
        "fit",
        "models",
        "pipeline",
        "policies",
        "rollout",
        "video",
    },
    "cli": {
        "backbones",
        "bench",
        "cache",
        "conditioning",
        "evaluation",
        "fit",
        "models",
        "pipeline",
        "policies",
        "prompts",
        "render",
        "request",
        "video",
    },
}
_NAMED = (ast.FunctionDef, ast.ClassDef)
FREE = {
    "alignment",
    "arguments",
    "errors",
    "files",
    "foreign",
    "lazy",
    "registry",
    "software",
    "state",
    "text",
    "__version__",
}


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


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_imports_go_one_way(stage: str) -> None:
    files = [*(SOURCE / stage).rglob("*.py"), *SOURCE.glob(f"{stage}.py")]
    assert files
    for path in files:
        assert _imports(path) <= MAY_IMPORT[stage] | FREE | {stage}, path


def test_every_stage_is_in_the_table() -> None:
    stages = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert stages <= set(MAY_IMPORT)


def test_a_metric_knows_nothing_of_ours_but_the_registry() -> None:
    for path in (SOURCE / "evaluation/metrics").glob("*.py"):
        assert _imports(path) <= {"evaluation", "registry"}, path
        assert "tethercache.evaluation." not in path.read_text().replace(
            "tethercache.evaluation.metrics", ""
        ), path


def test_a_policy_is_one_short_file() -> None:
    for path in (SOURCE / "policies").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 175, path


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


def test_files_are_short() -> None:
    for path in SOURCE.rglob("*.py"):
        most = 200 if path.parent.name == "cli" else 400
        assert len(path.read_text("utf-8").splitlines()) <= most, path
