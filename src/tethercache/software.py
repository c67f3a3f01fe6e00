"""Versions of the software, for records and reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from tethercache import __version__

NOT_INSTALLED = "not installed"


def versions(*libraries: str) -> dict[str, str]:
    """Versions of Python, of this package and of libraries, by their names.

    Args:
        libraries: as the package index calls them.
    """
    found = {"python": platform.python_version(), "tethercache": __version__}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = NOT_INSTALLED
    return found
