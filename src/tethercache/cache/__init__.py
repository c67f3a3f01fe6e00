"""The cache: tensors and the policy contract; `attention` joins them to a backbone."""

from tethercache.cache.layer_cache import EMPTY, Admission, FrameStats, LayerCache
from tethercache.cache.policy import Pass, PassKind, Policy, Read, Room
from tethercache.cache.rope import Rope, Rotation

__all__ = [
    "EMPTY",
    "Admission",
    "FrameStats",
    "LayerCache",
    "Pass",
    "PassKind",
    "Policy",
    "Read",
    "Room",
    "Rope",
    "Rotation",
]
