"""The toy hub, made once."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from tests.models.hub import PRESET, make_cache
from tethercache.models import PRESETS


@pytest.fixture(scope="session")
def made_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub(made_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache is the toy one, offline, and `toy` is a preset."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made_cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(PRESETS, "toy", PRESET)  # type: ignore[arg-type]
    return made_cache
