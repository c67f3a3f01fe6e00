"""What is read of renders, with and without the VAE."""

from pathlib import Path

import numpy as np
import pytest

from tethercache import CausalVideoPipeline
from training import readings


def test_renders_are_read_with_and_without_the_vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readings, "features", lambda frames: np.zeros((len(frames), 3), np.float16))
    tiny = CausalVideoPipeline.from_pretrained("tiny")
    config = {"prompts": 2, "every": 4, "world": {"pan_probability": 0.0}}
    truth = readings.read_renders(config, tmp_path, tiny.vae, seconds=2)
    assert truth["adherence"].shape == truth["vae adherence"].shape == (2, 2)
    assert truth["adherence"].min() == 1
    assert truth["vae adherence"].min() > 0.5
    assert truth["others"].shape == truth["vae features"].shape == (2, 2, 3)
    again = readings.read_renders(config, tmp_path, tiny.vae, seconds=5)
    assert again["adherence"].shape == (2, 2)  # from the file
    fewer = readings.read_renders(config | {"prompts": 1}, tmp_path, tiny.vae, seconds=1)
    assert fewer["adherence"].shape == (1, 1)
