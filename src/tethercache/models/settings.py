"""How a causal video model was trained to be used."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from tethercache.arguments import number, whole_number

_MOST = {
    "chunk_size": 1_000,
    "window": 100_000,
    "height": 16_384,
    "width": 16_384,
    "fps": 1_000,
    "max_sequence_length": 2_048,
}
"""Far above every model; a configuration beyond is refused before anything is made of it."""

_MOST_STEPS = 1_000


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

    Raises:
        ValueError: if one of them is of another type or out of its range.
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

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            whole_number(name, getattr(self, name), 1, most)
        if self.first_chunk_size is not None:
            whole_number("first_chunk_size", self.first_chunk_size, 1, _MOST["chunk_size"])
        number("context_noise", self.context_noise, 0, 1000)
        if not isinstance(self.sigmas, tuple) or not 1 <= len(self.sigmas) <= _MOST_STEPS:
            raise ValueError(f"`sigmas` must be 1 to {_MOST_STEPS} noise levels")
        for i, (above, sigma) in enumerate(zip((1, *self.sigmas), self.sigmas, strict=False)):
            if number(f"sigmas[{i}]", sigma, 0, 1) > above or not sigma:
                raise ValueError(
                    f"`sigmas` {self.sigmas} must fall from at most 1 and stay above 0"
                )

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Take the settings out of a pipeline's configuration.

        Raises:
            ValueError: see the class.
        """
        known = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        if isinstance(known.get("sigmas"), list):
            known["sigmas"] = tuple(known["sigmas"])
        return cls(**known)

    def config(self) -> dict[str, Any]:
        """The settings as a pipeline's configuration holds them."""
        return asdict(self) | {"sigmas": list(self.sigmas)}

    def check_size(self, scale: int, rows: int, columns: int) -> None:
        """Raise `ValueError` unless frames are whole patches of whole latents.

        Args:
            scale: pixels that a latent is wide and high.
            rows: latents that a patch is high.
            columns: latents that a patch is wide.
        """
        for name, patch in (("height", rows), ("width", columns)):
            if (size := getattr(self, name)) % (scale * patch):
                raise ValueError(
                    f"`{name}` ({size}) must be a multiple of {scale * patch} pixels: patches of "
                    f"{patch} latents, each {scale} pixels wide"
                )
