"""The cache: banks of frames and the policy contract; `attention` joins them to a backbone."""

from tethercache.cache.bank import Bank
from tethercache.cache.policy import (
    Cut,
    Event,
    Forget,
    Fused,
    Pass,
    PassKind,
    Pin,
    Policy,
    Switch,
    View,
    Wrapper,
    each_view,
)
from tethercache.cache.rope import Rope, Rotation
from tethercache.cache.slots import Slots
from tethercache.cache.stats import FrameStats
from tethercache.cache.store import EMPTY

__all__ = [
    "EMPTY",
    "Bank",
    "Cut",
    "Event",
    "Forget",
    "FrameStats",
    "Fused",
    "Pass",
    "PassKind",
    "Pin",
    "Policy",
    "Rope",
    "Rotation",
    "Slots",
    "Switch",
    "View",
    "Wrapper",
    "each_view",
]
