"""What model a checkpoint is of, from the shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tethercache.errors import WrongModelError
from tethercache.foreign import first, some
from tethercache.models.checkpoints.names import diffusers_name
from tethercache.models.checkpoints.read import Checkpoint

MOST_LAYERS = 1000

_HEADS = {1536: 12, 3072: 24, 5120: 40}
"""Heads of the published Wan widths, 128 channels each; the tensors alone do not tell."""

_OTHERS = (
    (("lora",), "a LoRA, not a whole model; give it with --lora"),
    (("img_emb", "k_img", "add_k_proj"), "an image-to-video model, which is not supported"),
)
"""What else has tensors of Wan: parts of their names, and what it is."""


def describe(checkpoint: Checkpoint, *, heads: int | None = None) -> dict[str, Any]:
    """The `WanTransformer3DModel` configuration of a checkpoint.

    Args:
        checkpoint: what `read_checkpoint` returned.
        heads: number of attention heads; None: from the configuration that came with it, or known
            from the width of the published models.

    Raises:
        WrongModelError: if this is no text-to-video Wan transformer, or its heads are unknown.
    """
    where = checkpoint.path
    shapes = {diffusers_name(name): t.shape for name, t in checkpoint.state.items()}
    for parts, what in _OTHERS:
        if any(part in name.lower() for name in shapes for part in parts):
            raise WrongModelError(f"{where} is {what}")
    try:
        width, channels, *patch = shapes["patch_embedding.weight"]
        _, _, _ = patch  # time, rows, columns
        ffn = shapes["blocks.0.ffn.net.0.proj.weight"][0]
        text = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
        freq = shapes["condition_embedder.time_embedder.linear_1.weight"][1]
        out = shapes["proj_out.weight"][0] // math.prod(patch)
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        examples = first(list(checkpoint.state)) or "none"
        raise WrongModelError(
            f"{where} is not a Wan transformer: {len(shapes)} tensors, such as {examples}"
        ) from None
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise WrongModelError(f"{where} holds nothing in {some('tensors', empty)}")
    layers = _layers(shapes, where)
    hints = checkpoint.hints
    if hints.get("dim", width) != width:
        hints = {}  # of another model that lies in the same folder
    heads = heads or hints.get("num_heads") or hints.get("num_attention_heads")
    heads = heads or _HEADS.get(width)
    if not heads or width % heads:
        raise WrongModelError(
            f"the number of heads of {where} (width {width}) is not known; put the config.json "
            "of the original model next to it"
        )
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": out,
        "text_dim": text,
        "freq_dim": freq,
        "ffn_dim": ffn,
        "num_layers": layers,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "eps": hints.get("eps", 1e-6),
    }


def _layers(names: Iterable[str], where: Path) -> int:
    """The number of transformer blocks, which must be numbered without gaps."""
    blocks = {int(name.split(".")[1]) for name in names if re.match(r"blocks\.\d+\.", name)}
    if len(blocks) > MOST_LAYERS:
        raise WrongModelError(f"{where} has {len(blocks)} blocks, more than {MOST_LAYERS}")
    if len(blocks) != max(blocks) + 1:
        raise WrongModelError(f"{where} has {len(blocks)} blocks, the last of number {max(blocks)}")
    return len(blocks)
