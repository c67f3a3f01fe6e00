"""How a causal video model was trained to be used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


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

    def config(self) -> dict[str, Any]:
        """The settings as a pipeline's configuration holds them."""
        return asdict(self) | {"sigmas": list(self.sigmas)}
