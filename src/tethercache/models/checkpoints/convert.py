"""A checkpoint, once and for all, as a folder that `--model` takes and diffusers can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FlowMatchLCMScheduler
from safetensors import SafetensorError

from tethercache.arguments import as_path
from tethercache.errors import MissingModelError, TetherCacheError
from tethercache.files import check_space, new_folder
from tethercache.models.checkpoints.load import map_transformer
from tethercache.models.folders import write_index
from tethercache.models.presets import PREFERENCE, SHIFT
from tethercache.models.settings import Settings
from tethercache.text import reason

_PARTS = {"transformer": "WanTransformer3DModel", "scheduler": "FlowMatchLCMScheduler"}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    settings: Settings | None = None,
    shift: float = SHIFT,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    prefer: Sequence[str] = PREFERENCE,
) -> Path:
    """Write a checkpoint as a pipeline folder of diffusers, whole or not at all.

    The folder holds the transformer, the scheduler and the settings. VAE, text encoder and
    tokenizer are not copied: `model_index.json` names them as absent, and the base model lends
    them.

    Args:
        source: a file or a folder, see `read_checkpoint`.
        target: the folder to make; it must not exist.
        settings: how the model was trained to be used; default those of Self-Forcing.
        shift: flow shift of the noise levels.
        dtype: number format of the weights; None: see `load_transformer`.
        heads: number of attention heads; None: see `load_transformer`.
        prefer: which state dict of a file is meant, the best first.

    Returns:
        The folder.

    Raises:
        ValueError: if `target` is no path.
        FileExistsError: if `target` exists.
        TetherCacheError: if the source is no usable checkpoint, or the target cannot be written.
    """
    target = as_path("target", target)
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    if not target.absolute().parent.is_dir():
        raise MissingModelError(f"cannot write {target}: no such folder {target.parent}")
    transformer = map_transformer(source, dtype=dtype, heads=heads, prefer=prefer)
    size = sum(p.numel() * p.element_size() for p in transformer.parameters())
    try:
        check_space(target.parent, size)
        with new_folder(target) as folder:
            # one shard is held in memory while it is written
            transformer.save_pretrained(
                folder / "transformer", max_shard_size=max(size // 10, 1 << 20)
            )
            FlowMatchLCMScheduler(shift=shift).save_pretrained(folder / "scheduler")
            write_index(folder, settings or Settings(), **_PARTS)
            _share(folder)
    except (OSError, SafetensorError) as error:
        raise TetherCacheError(f"cannot write {target}: {reason(error)}") from error
    return target


def _share(folder: Path) -> None:
    """Let others read what they may list: safetensors writes files for their owner alone."""
    for file in folder.glob("*/*.safetensors"):
        file.chmod((file.parent / "config.json").stat().st_mode)
