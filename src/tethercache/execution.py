"""Moved to `tethercache.fit.execution`; this name goes with the next version."""

from tethercache.lazy import moved

__getattr__ = moved(__name__, "tethercache.fit.execution")
