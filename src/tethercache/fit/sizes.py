"""What a model's memory depends on, read from its files without loading them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from tethercache.arguments import whole_number
from tethercache.fit.memory import Sizes
from tethercache.foreign import reading
from tethercache.models.checkpoints.containers import read_shapes
from tethercache.models.checkpoints.describe import describe
from tethercache.models.checkpoints.read import read_checkpoint
from tethercache.models.folders import read_config
from tethercache.models.sources import Parts


def measure(parts: Parts) -> Sizes:
    """The sizes of a model whose files are here.

    Raises:
        TetherCacheError: if a file is damaged or of another kind of model.
    """
    where = parts.transformer or parts.pipeline
    config = describe(read_checkpoint(where, prefer=parts.prefer))
    vae, settings = read_config(parts.pipeline / "vae"), parts.settings
    _, rows, columns = config["patch_size"]
    with reading(parts.pipeline):
        name = "base_dim" if vae.get("decoder_base_dim") is None else "decoder_base_dim"
        base = whole_number(name, vae.get(name, 96), least=1)
        spatial = whole_number("scale_factor_spatial", vae.get("scale_factor_spatial", 8), least=1)
        settings.check_size(spatial, rows, columns)
    tokens = settings.height // (spatial * rows) * (settings.width // (spatial * columns))
    return Sizes(
        transformer=transformer_parameters(config, where),
        text_encoder=_parameters(parts.pipeline / "text_encoder"),
        vae=_parameters(parts.pipeline / "vae"),
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        ffn=config["ffn_dim"],
        tokens=tokens,
        height=settings.height,
        columns=settings.width,
        chunk=settings.chunk_size,
        text_length=settings.max_sequence_length,
        vae_base=base,
        vae_patched=bool(vae.get("is_residual")),
    )


def transformer_parameters(config: Mapping[str, Any], where: Path) -> int:
    """The number of parameters of a `WanTransformer3DModel`, built without storage.

    Args:
        config: what `describe` returned, its numbers within limits.
        where: the files that it was read from, for the message.

    Raises:
        DamagedModelError: if no such model can be built.
    """
    import torch
    from diffusers import WanTransformer3DModel

    with reading(where), torch.device("meta"):
        model = WanTransformer3DModel.from_config(dict(config))
    return sum(parameter.numel() for parameter in model.parameters())


def _parameters(folder: Path) -> int:
    """The number of parameters in a folder's safetensors files, from their headers."""
    shapes = (read_shapes(path).values() for path in folder.glob("*.safetensors"))
    return sum(map(math.prod, chain.from_iterable(shapes)))
