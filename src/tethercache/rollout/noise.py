"""Noise that depends on nothing but its name.

Each draw has a generator of its own, seeded by a hash of (seed, sample, chunk, draw). It is made on
the CPU in float32, so it is the same on every device, for every length of the video, for every
batch, and after a resume. The prompt does not enter: two prompts with one seed start from the same
noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tethercache.arguments import SEEDS, whole_number, whole_numbers


class NoiseSource(Protocol):
    """Where a rollout takes its noise from."""

    def __call__(self, chunk: int, draw: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise for a batch, float32 `[B, C, F, h, w]` on the CPU.

        Args:
            chunk: number of the generated chunk, prefix chunks not counted.
            draw: 0 for the initial noise of the chunk, i for the re-noising before step i.
            shape: `[C, F, h, w]` of one sample.
        """


@dataclass(frozen=True)
class CounterNoise:
    """Counter-based noise for a batch of samples.

    Args:
        seed: seed of the run, or one for each batch element.
        samples: sample number of each batch element, 0 or more; noise of equal numbers is equal.

    Raises:
        ValueError: if one of them is no whole number, a seed not one that torch could take, or
            seeds are more or less than samples.
    """

    seed: int | Sequence[int] = 0
    samples: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        # plain numbers: their digits are hashed
        samples = whole_numbers("samples", self.samples, 0, SEEDS[1])
        object.__setattr__(self, "samples", samples)
        seed: int | tuple[int, ...]
        if isinstance(self.seed, Sequence) and not isinstance(self.seed, str):
            seed = whole_numbers("seed", self.seed, *SEEDS)
            if len(seed) != len(samples):
                raise ValueError(f"`seed` ({len(seed)}) must be one or {len(samples)}")
        else:
            seed = whole_number("seed", self.seed, *SEEDS)
        object.__setattr__(self, "seed", seed)

    def __call__(self, chunk: int, draw: int, shape: tuple[int, ...]) -> Tensor:
        """See `NoiseSource`."""
        seeds = (self.seed,) * len(self.samples) if isinstance(self.seed, int) else self.seed
        return torch.stack(
            [
                torch.randn(shape, generator=_generator(seed, sample, chunk, draw))
                for seed, sample in zip(seeds, self.samples, strict=True)
            ]
        )


def _generator(*counter: int) -> torch.Generator:
    name = ",".join(map(str, counter)).encode()
    digest = hashlib.blake2b(name, digest_size=8, person=b"tethercache").digest()
    # 63 bits: torch takes a signed number
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
