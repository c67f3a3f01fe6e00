"""Names that are imported when they are used, so that `tethercache --help` loads no torch."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its `__name__`.
        modules: where each name is defined, such as `{"Plan": "plan"}` for `Plan` of `.plan`.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return get


def moved(old: str, new: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose contents are elsewhere now; warns of it.

    Args:
        old: its `__name__`.
        new: the module that has its contents.
    """

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old} has moved to {new}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(new), name)

    return get
