"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# toy tensors: a second thread costs more than it brings, and many times more where other programs
# are at work; the variables are for the programs that tests start
torch.set_num_threads(1)
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

# a shell that runs the tests in the background lets them ignore Ctrl-C, and all that they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "default",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)
settings.load_profile("default")

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _gradients_are_as_before() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled(), "the test has left gradients switched off for those behind it"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real videos and results that are not part of the project; tests skip where they are not."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with development data is not here")
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole toy model; nobody changes it."""
    from tests.toys import toy_pipeline

    folder = tmp_path_factory.mktemp("models") / "toy"
    toy_pipeline().save_pretrained(folder)
    return folder
