"""Backbones: how a causal video transformer is joined to a cache."""

from tethercache.backbones.attachment import attach, new_session
from tethercache.backbones.pipeline_session import PipelineSession
from tethercache.backbones.self_forcing import attach_pipeline
from tethercache.backbones.wan import float64_sinusoid
from tethercache.errors import SessionError
from tethercache.session import Session

__all__ = [
    "PipelineSession",
    "Session",
    "SessionError",
    "attach",
    "attach_pipeline",
    "float64_sinusoid",
    "new_session",
]
