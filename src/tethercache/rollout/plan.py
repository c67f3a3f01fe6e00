"""Which latent frames are made together: chunk sizes and lengths, checked before anything loads.

Wan's VAE turns the first latent frame into one pixel frame and each later one into
`frames_per_latent` (4), so n latent frames are 4 (n - 1) + 1 pixel frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tethercache.arguments import positive, whole_number

if TYPE_CHECKING:
    from tethercache.cache import Policy

MAX_FRAMES = 2**32 - 1
"""Pixel frames of the longest video: an mp4 counts them with 32 bits. Eight years at 16 fps."""


@dataclass(frozen=True)
class Chunk:
    """A run of latent frames that are made, or taken over from a prefix, together.

    Attributes:
        start: global index of its first latent frame.
        frames: number of latent frames.
        generated: number of generated chunks before it, or None for a chunk of the clean prefix.
    """

    start: int
    frames: int
    generated: int | None


@dataclass(frozen=True)
class Plan:
    """The chunks of one video.

    Args:
        num_latent_frames: latent frames that the video needs, the prefix included; whole chunks are
            made, so there may be up to `chunk_size - 1` more.
        chunk_size: latent frames denoised jointly.
        first_chunk_size: size of the very first chunk; None for `chunk_size`.
        prefix: clean latent frames that come first and are only read.
    """

    num_latent_frames: int
    chunk_size: int = 3
    first_chunk_size: int | None = None
    prefix: int = 0

    def __post_init__(self) -> None:
        for name in ("num_latent_frames", "chunk_size"):
            whole_number(name, getattr(self, name), least=1)
        if self.first_chunk_size is not None:
            whole_number("first_chunk_size", self.first_chunk_size, least=1)
        whole_number("prefix", self.prefix, least=0)

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks in order; those of the prefix never reach into the generated part."""
        return map(self.__getitem__, range(self.num_chunks))

    def __getitem__(self, number: int) -> Chunk:
        """The chunk of a number, counted from 0.

        Raises:
            IndexError: if there is none.
        """
        before = clean = 0
        for starts, frames in self._runs():
            clean += len(range(starts.start, min(starts.stop, self.prefix), starts.step))
            if 0 <= number - before < len(starts):
                start = starts[number - before]
                return Chunk(start, frames, None if start < self.prefix else number - clean)
            before += len(starts)
        raise IndexError(f"there is no chunk {number} among {before}")

    def _runs(self) -> Iterator[tuple[range, int]]:
        """The same as runs of chunks of one size: where they start, and the size."""
        first = self.first_chunk_size or self.chunk_size
        if self.prefix:
            first = min(first, self.prefix)
        yield range(1), first
        left = max(0, self.prefix - first) % self.chunk_size  # the prefix need not be whole chunks
        whole = max(first, self.prefix - left)
        yield range(first, whole, self.chunk_size), self.chunk_size
        if left:
            yield range(whole, whole + 1), left
        yield range(whole + left, self.num_latent_frames, self.chunk_size), self.chunk_size

    def check(self, policy: Policy) -> None:
        """Raise `ValueError` if the policy cannot serve these chunks.

        Where its budget is full, a policy cannot tell one chunk from the next of the same size. So
        it is asked only about the first chunks of a run, however long the video.
        """
        for starts, frames in self._runs():
            for start in starts[: policy.budget + 1]:
                policy.check_chunk(start, frames)

    @property
    def num_chunks(self) -> int:
        """The number of chunks, those of the prefix included."""
        return sum(len(starts) for starts, _ in self._runs())


def latent_frames(num_frames: int, frames_per_latent: int = 4) -> int:
    """The fewest latent frames that decode to at least `num_frames` pixel frames."""
    return 1 + -(-(num_frames - 1) // frames_per_latent)


def pixel_frames(num_latent_frames: int, frames_per_latent: int = 4) -> int:
    """The pixel frames that `num_latent_frames` decode to: 4 (n - 1) + 1."""
    return frames_per_latent * (num_latent_frames - 1) + 1


def frames_for_seconds(seconds: float, fps: float | Fraction) -> int:
    """The number of pixel frames of a video of `seconds`: round(seconds x fps), at least one.

    Raises:
        ValueError: if `seconds` is not a positive, finite number, is shorter than half a frame or
            longer than `MAX_FRAMES`.
    """
    positive("num_seconds", seconds)
    if seconds * fps > MAX_FRAMES:
        raise ValueError(
            f"`num_seconds` ({seconds}) must be at most {float(MAX_FRAMES / fps):.10g} at "
            f"{float(fps):g} fps: an mp4 holds no more than {MAX_FRAMES} frames"
        )
    frames: int = round(seconds * fps)
    if frames < 1:
        raise ValueError(f"{seconds} seconds are less than one frame at {float(fps):g} fps")
    return frames
