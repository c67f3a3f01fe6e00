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
        first_sigmas: those of the first chunk that is made, None for `sigmas`.
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
    first_sigmas: tuple[float, ...] | None = None
    context_noise: float = 0.0
    max_sequence_length: int = 512

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            whole_number(name, getattr(self, name), 1, most)
        if self.first_chunk_size is not None:
            whole_number("first_chunk_size", self.first_chunk_size, 1, _MOST["chunk_size"])
        number("context_noise", self.context_noise, 0, 1000)
        _check_levels("sigmas", self.sigmas)
        if self.first_sigmas is not None:
            _check_levels("first_sigmas", self.first_sigmas)

    @classmethod
    def of(cls, config: dict[str, Any]) -> Settings:
        """Take the settings out of a pipeline's configuration.

        Raises:
            ValueError: see the class.
        """
        known = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        for name in ("sigmas", "first_sigmas"):
            if isinstance(known.get(name), list):
                known[name] = tuple(known[name])
        return cls(**known)

    def config(self) -> dict[str, Any]:
        """The settings as a pipeline's configuration holds them."""
        first = None if self.first_sigmas is None else list(self.first_sigmas)
        return asdict(self) | {"sigmas": list(self.sigmas), "first_sigmas": first}

    def steps(self, chunks: int) -> int:
        """Denoising steps of the first so many chunks that are made."""
        first = self.sigmas if self.first_sigmas is None else self.first_sigmas
        return (len(first) + (chunks - 1) * len(self.sigmas)) if chunks else 0

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


def _check_levels(name: str, levels: tuple[float, ...]) -> None:
    """Raise `ValueError` unless noise levels fall from at most 1 and stay above 0."""
    if not isinstance(levels, tuple) or not 1 <= len(levels) <= _MOST_STEPS:
        raise ValueError(f"`{name}` must be 1 to {_MOST_STEPS} noise levels")
    for i, (above, sigma) in enumerate(zip((1, *levels), levels, strict=False)):
        if number(f"{name}[{i}]", sigma, 0, 1) > above or not sigma:
            raise ValueError(f"`{name}` {levels} must fall from at most 1 and stay above 0")
