"""Versions of what is installed, and of what is not."""

from __future__ import annotations

import platform

import numpy as np

import tethercache
from tethercache.software import NOT_INSTALLED, versions


def test_versions_are_those_of_what_runs() -> None:
    found = versions("numpy", "no-such-library")
    assert found == {
        "python": platform.python_version(),
        "tethercache": tethercache.__version__,
        "numpy": np.__version__,
        "no-such-library": NOT_INSTALLED,
    }
