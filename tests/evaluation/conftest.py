from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.scenes import write
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.result import VideoResult

FAULTS = ("none", "saturation", "brightness", "blur", "freeze", "flicker", "cut")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A video for each fault, and one without."""
    folder = tmp_path_factory.mktemp("scenes")
    return {fault: write(folder / f"{fault}.mp4", fault) for fault in FAULTS}


@pytest.fixture(scope="session")
def results(scenes: dict[str, Path]) -> dict[str, VideoResult]:
    return {fault: measure_video(path) for fault, path in scenes.items()}
