"""What a generation starts from besides a prompt: adapters and a clip."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tethercache.errors import MissingModelError
from tethercache.models import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.memory import Tiles


def parse_loras(specs: list[str]) -> list[tuple[Path, float]]:
    """`FILE[:SCALE]` to files and scales.

    Raises:
        MissingModelError: if a file is not there.
    """
    loras = []
    for spec in specs:
        name, colon, text = spec.rpartition(":")
        try:
            path, scale = (Path(name), float(text)) if colon else (Path(spec), 1.0)
        except ValueError:  # a colon that is part of the name
            path, scale = Path(spec), 1.0
        if not path.exists():
            raise MissingModelError(f"no LoRA at {path}")
        loras.append((path, scale))
    return loras


def read_prefix(path: Path) -> Tensor:
    """All frames of a clip, or a picture as one, uint8 `[F, H, W, 3]`."""
    import numpy as np
    import torch

    from tethercache.video import read_frames

    return torch.from_numpy(np.stack(list(read_frames(path))))


def prefix_latents(clip: Tensor | None, settings: Settings) -> int:
    """The latent frames that a clip `[F, H, W, 3]` gives, 0 without one.

    Raises:
        ValueError: if its size is not that of the video.
    """
    from tethercache.conditioning import prefix_frames

    if clip is None:
        return 0
    frames, height, width, _ = clip.shape
    if (width, height) != (settings.width, settings.height):
        raise ValueError(
            f"--prefix is {width}x{height}, but this model makes {settings.width}x"
            f"{settings.height}; scale or crop it first"
        )
    return (prefix_frames(frames, settings.chunk_size) + 3) // 4


def encode_prefix(vae: Any, clip: Tensor, settings: Settings) -> Tensor:
    """The latents `[1, C, F, h, w]` of the last frames of a clip that make whole chunks."""
    from tethercache.conditioning import encode_frames, prefix_frames

    return encode_frames(vae, clip[-prefix_frames(len(clip), settings.chunk_size) :])


def describe_extras(
    loras: list[tuple[Path, float]], prefix: Path | None, tiles: Tiles | None
) -> dict[str, Any]:
    """What of these a sidecar has to record."""
    extras: dict[str, Any] = {}
    if loras:
        extras["loras"] = [
            {"file": str(path), "scale": scale, "sha256": _sha256(path)} for path, scale in loras
        ]
    if prefix is not None:
        extras["prefix"] = {"file": str(prefix), "sha256": _sha256(prefix)}
    if tiles is not None:
        extras["tiles"] = {"size": tiles.size, "stride": tiles.stride}
    return extras


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
