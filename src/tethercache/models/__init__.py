"""Models by name, and what can be known of a model without loading its weights."""

from tethercache.models.presets import BASE, BASES, PRESETS, HubFile, Preset
from tethercache.models.settings import Settings
from tethercache.models.sources import (
    SHIPPED,
    Model,
    Parts,
    base_lacks,
    fetch,
    fetch_file,
    find,
    fingerprint,
    present,
    preset_lacks,
    read_settings,
)

__all__ = [
    "BASE",
    "BASES",
    "PRESETS",
    "SHIPPED",
    "HubFile",
    "Model",
    "Parts",
    "Preset",
    "Settings",
    "base_lacks",
    "fetch",
    "fetch_file",
    "find",
    "fingerprint",
    "present",
    "preset_lacks",
    "read_settings",
]
