"""What a model's files bring beside a pipeline's folder: transformer, scheduler, adapters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchLCMScheduler

from tethercache.arguments import number
from tethercache.models.checkpoints.load import load_transformer, not_finite
from tethercache.models.checkpoints.lora import read_lora, require_peft
from tethercache.models.folders import check
from tethercache.models.settings import Settings
from tethercache.models.sources import Parts

logger = logging.getLogger(__name__)


def adapters(parts: Parts, loras: Sequence[tuple[str | Path, float]]) -> list[tuple[Path, float]]:
    """The adapters to merge and their scales, that of the model first; their files are checked.

    Raises:
        TetherCacheError: if a file cannot be read, or PEFT is missing.
        ValueError: if a scale is no finite number.
    """
    found = [(parts.lora, 1.0)] if parts.lora is not None else []
    found += [(Path(path), number("scale", scale)) for path, scale in loras]
    if found:
        require_peft()
    for adapter, _ in found:
        read_lora(adapter)
    return found


def components(parts: Parts, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check a pipeline's folder, and load what takes the place of parts of it.

    Args:
        parts: the model.
        given: arguments of `DiffusionPipeline.from_pretrained`, which come before all this.

    Raises:
        TetherCacheError: if a file cannot be read, or is not that of such a model.
        ValueError: if `dtype` or a setting is not what it has to be.
    """
    dtype = _transformer_dtype(given.get("dtype"))
    settings = parts.settings.config()
    Settings.of(settings | {name: given[name] for name in settings if name in given})
    made: dict[str, Any] = {}
    if parts.shift is not None:
        made = {"scheduler": FlowMatchLCMScheduler(shift=parts.shift), **settings}
    taken = {*made, *given, *(["transformer"] if parts.transformer is not None else [])}
    check(parts.pipeline, made=taken)
    if parts.transformer is not None:
        made["transformer"] = load_transformer(parts.transformer, dtype=dtype, prefer=parts.prefer)
    return made


def warn_of_strange(name: str, module: torch.nn.Module | None) -> None:
    """Say so if a loaded part has weights that are no numbers."""
    if module is not None and (strange := not_finite(module)):
        logger.warning("the %s has NaN or infinite weights: %s", name, strange)


def _transformer_dtype(wanted: Any) -> torch.dtype | None:
    """The transformer's number format of a `dtype`, which may name one for each part."""
    if isinstance(wanted, dict):
        wanted = wanted.get("transformer", wanted.get("default"))
    if wanted is not None and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise ValueError(f"`dtype` ({wanted!r}) must be a floating-point `torch.dtype`")
    return wanted
