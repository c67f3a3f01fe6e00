"""Moved to `tethercache.fit.memory`; this name goes with the next version."""

from tethercache.lazy import moved

__getattr__ = moved(__name__, "tethercache.fit.memory")
