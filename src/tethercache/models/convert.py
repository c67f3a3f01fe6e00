"""A checkpoint, once and for all, as a folder that `--model` takes and diffusers can read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchLCMScheduler

from tethercache.backbones import weights
from tethercache.errors import MissingModelError, TetherCacheError
from tethercache.models.presets import BASE_PARTS
from tethercache.models.settings import Settings
from tethercache.models.sources import SHIFT


def convert(
    source: str | Path,
    target: str | Path,
    *,
    settings: Settings | None = None,
    shift: float = SHIFT,
    dtype: torch.dtype | None = None,
    prefer: Sequence[str] = weights.PREFERENCE,
) -> Path:
    """Write a checkpoint as a pipeline folder of diffusers, whole or not at all.

    The folder holds the transformer, the scheduler and the settings. VAE, text encoder and
    tokenizer are not copied: `model_index.json` names them as absent, and the base model lends
    them.

    Args:
        source: see `backbones.weights.read_checkpoint`.
        target: the folder to make; it must not exist.
        settings: how the model was trained to be used; default those of Self-Forcing.
        shift: flow shift of the noise levels.
        dtype: number format of the weights; None: as stored.
        prefer: which state dict of the checkpoint is meant, the best first.

    Returns:
        The folder.

    Raises:
        FileExistsError: if `target` exists.
        TetherCacheError: if the source is no usable checkpoint or the target cannot be written.
    """
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    if not target.absolute().parent.is_dir():
        raise MissingModelError(f"cannot write {target}: no such folder {target.parent}")
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        weights.convert(source, partial / "transformer", dtype=dtype, prefer=prefer)
        FlowMatchLCMScheduler(shift=shift).save_pretrained(partial / "scheduler")
        index = {
            "_class_name": "CausalVideoPipeline",
            "_diffusers_version": diffusers.__version__,
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "scheduler": ["diffusers", "FlowMatchLCMScheduler"],
            **{part: [None, None] for part in BASE_PARTS},
            **(settings or Settings()).config(),
        }
        (partial / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        partial.rename(target)
    except OSError as error:
        raise TetherCacheError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
