"""A checkpoint's tensors handed to a transformer that was made without weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from tethercache.alignment import align, is_plain
from tethercache.errors import WrongModelError
from tethercache.foreign import reading, some
from tethercache.models.checkpoints.describe import describe
from tethercache.models.checkpoints.names import diffusers_name
from tethercache.models.checkpoints.packed import Stored, number_format
from tethercache.models.checkpoints.read import Checkpoint, read_checkpoint
from tethercache.models.presets import PREFERENCE

logger = logging.getLogger(__name__)

_PIECE = 1 << 24


def load_transformer(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    prefer: Sequence[str] = PREFERENCE,
) -> WanTransformer3DModel:
    """Load a transformer from any recognised format.

    Tensors that keep their dtype and lie aligned in their file stay memory-mapped, so the file must
    stay where it is while the model is in use; the others are copied one by one. As in diffusers,
    norms, modulations and the time embedding stay in float32 when `dtype` is a smaller one.

    Args:
        path: a file or a folder, see `read_checkpoint`.
        dtype: number format of the weights; None: as stored, or bfloat16 where that is a format
            that models do not compute in, such as fp8, int8 or GGUF.
        heads: number of attention heads; None: from the configuration beside the checkpoint, or
            known from the width of the published models.
        prefer: which state dict of a file is meant, the best first.

    Raises:
        TetherCacheError: as `read_checkpoint` and `describe`; `WrongModelError` also if tensors
            are missing, unexpected or of another shape, with their numbers and examples.
    """
    transformer = map_transformer(path, dtype=dtype, heads=heads, prefer=prefer)
    align(transformer)
    return transformer


def map_transformer(
    path: str | Path,
    *,
    dtype: torch.dtype | None,
    heads: int | None,
    prefer: Sequence[str],
) -> WanTransformer3DModel:
    """What `load_transformer` loads, as far as possible still on disk: to be written, not run."""
    checkpoint = read_checkpoint(path, prefer=prefer)
    for note in checkpoint.notes:
        logger.warning(note)
    config = describe(checkpoint, heads=heads)
    with reading(path), torch.device("meta"):
        transformer = WanTransformer3DModel(**config)
    _check_names(checkpoint, transformer.state_dict())
    # its tables are computed, not stored
    transformer.rope = type(transformer.rope)(
        config["attention_head_dim"], config["patch_size"], transformer.config.rope_max_seq_len
    )
    if dtype is None and None in map(number_format, checkpoint.state.values()):
        dtype = torch.bfloat16
    state = {}
    for name in list(checkpoint.state):
        tensor = checkpoint.state.pop(name)  # so that no tensor is held twice
        renamed = diffusers_name(name)
        state[renamed] = tensor.to(_dtype_of(renamed, tensor, dtype))
    transformer.load_state_dict(state, strict=True, assign=True)
    return transformer.eval().requires_grad_(False)


def _dtype_of(name: str, stored: Stored, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None:
        as_stored = number_format(stored)
        assert as_stored is not None
        return as_stored
    kept = WanTransformer3DModel._keep_in_fp32_modules
    return torch.float32 if any(part in name.split(".") for part in kept) else wanted


def _check_names(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    given = {diffusers_name(name): (name, t) for name, t in checkpoint.state.items()}
    problems = [
        some("missing", sorted(set(expected) - set(given))),
        some("unexpected", sorted(given[name][0] for name in set(given) - set(expected))),
        some(
            "of another shape",
            [
                f"{given[name][0]} {list(given[name][1].shape)} for {list(expected[name].shape)}"
                for name in expected
                if name in given and given[name][1].shape != expected[name].shape
            ],
        ),
        some(
            "not floating point",
            [
                name
                for name, tensor in given.values()
                if isinstance(tensor, Tensor) and not tensor.is_floating_point()
            ],
        ),
    ]
    if len(given) < len(checkpoint.state):
        problems.append(f"{len(checkpoint.state) - len(given)} given twice")
    if found := "; ".join(filter(None, problems)):
        raise WrongModelError(f"{checkpoint.path} does not fit a Wan transformer: {found}")


def not_finite(module: nn.Module) -> str:
    """Which tensors of a module hold NaN or infinity, in words; empty if none does.

    Reads every number once, piece by piece: seconds for the largest models.
    """
    named = (*module.named_parameters(), *module.named_buffers())
    return some("tensors", [name for name, tensor in named if not _finite(tensor)])


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not is_plain(tensor):
        return True
    return all(bool(piece.isfinite().all()) for piece in tensor.detach().flatten().split(_PIECE))
