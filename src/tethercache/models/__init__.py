"""Models by name, and what can be known of a model without loading its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tethercache.errors import DamagedModelError, MissingModelError

SHIPPED = {"tiny": Path(__file__).parent / "tiny"}
"""Models that come with the package."""


@dataclass(frozen=True)
class Settings:
    """How a causal video model was trained to be used; part of its `model_index.json`.

    Attributes:
        chunk_size: latent frames denoised jointly.
        first_chunk_size: size of the first chunk, None for `chunk_size`.
        window: latent frames the model was trained on, the most that a policy may show it.
        height: pixel rows.
        width: pixel columns.
        fps: pixel frames a second.
        sigmas: noise levels of the steps before the scheduler's shift.
        context_noise: timestep that the context pass is told, 0..1000.
        max_sequence_length: text tokens, padding included.
    """

    chunk_size: int = 3
    first_chunk_size: int | None = None
    window: int = 21
    height: int = 480
    width: int = 832
    fps: int = 16
    sigmas: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    context_noise: float = 0.0
    max_sequence_length: int = 512

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Take the settings out of a pipeline's configuration."""
        known = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        if "sigmas" in known:
            known["sigmas"] = tuple(known["sigmas"])
        return cls(**known)


def resolve(model: str) -> str:
    """The folder of a shipped or local model; any other name is left to the hub.

    Raises:
        MissingModelError: if `model` is a path and nothing usable is there.
    """
    path = SHIPPED.get(model, Path(model))
    if (path / "model_index.json").is_file():
        return str(path)
    looks_local = model in SHIPPED or path.exists() or path.is_absolute() or model.startswith(".")
    if looks_local or model.count("/") != 1:
        raise MissingModelError(
            f"no model at `{model}`: expected a folder with model_index.json, "
            f"a hub id (owner/name) or one of: {', '.join(SHIPPED)}"
        )
    return model


def read_settings(folder: str | Path) -> Settings:
    """The settings of a local model, from its configuration alone.

    Raises:
        DamagedModelError: if the configuration cannot be read.
    """
    path = Path(folder) / "model_index.json"
    try:
        return Settings.of(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedModelError(f"cannot read {path}: {error}") from error


def fingerprint(folder: str | Path) -> str:
    """SHA-256 over names and contents of a local model's weights and configurations."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
