"""Backbones: how a causal video transformer is joined to a cache."""

from tethercache.backbones.wan import Session, SessionError, attach, float64_sinusoid

__all__ = ["Session", "SessionError", "attach", "float64_sinusoid"]
