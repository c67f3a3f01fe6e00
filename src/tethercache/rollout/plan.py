"""Which latent frames are made together: chunk sizes and lengths, checked before anything loads.

Wan's VAE turns the first latent frame into one pixel frame and each later one into
`frames_per_latent` (4), so n latent frames are 4 (n - 1) + 1 pixel frames.
"""

from __future__ import annotations

import math
from bisect import bisect_left
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

    @property
    def first_generated(self) -> int:
        """The number of the first chunk that is not of the prefix; `num_chunks` if all are."""
        return self._first_from(self.prefix)

    def at_or_after(self, seconds: float, fps: float | Fraction, frames_per_latent: int = 4) -> int:
        """The number of the first chunk that begins at a second or later; `num_chunks` if none.

        There a change takes effect that is asked for at this second.
        """
        frame = math.ceil(_exact(seconds, fps))
        return self._first_from(latent_frames(frame, frames_per_latent) if frame else 0)

    def at_or_before(
        self, seconds: float, fps: float | Fraction, frames_per_latent: int = 4
    ) -> int:
        """The number of the last chunk that begins at a second or earlier: where to go on from.

        Behind the end of the video it is `num_chunks`, where nothing is left to be made.
        """
        frame = math.floor(_exact(seconds, fps))
        if frame >= pixel_frames(self._end, frames_per_latent):
            return self.num_chunks
        # the latent frame after the one that holds the frame begins later
        return self._first_from(latent_of(frame, frames_per_latent) + 1) - 1

    @property
    def _end(self) -> int:
        """Latent frames of all chunks."""
        last = self[self.num_chunks - 1]
        return last.start + last.frames

    def _first_from(self, latent_frame: int) -> int:
        """The number of the first chunk that begins with a latent frame or a later one."""
        return bisect_left(range(self.num_chunks), latent_frame, key=lambda n: self[n].start)


def latent_frames(num_frames: int, frames_per_latent: int = 4) -> int:
    """The fewest latent frames that decode to at least `num_frames` pixel frames."""
    return 1 + -(-(num_frames - 1) // frames_per_latent)


def pixel_frames(num_latent_frames: int, frames_per_latent: int = 4) -> int:
    """The pixel frames that `num_latent_frames` decode to: 4 (n - 1) + 1."""
    return frames_per_latent * (num_latent_frames - 1) + 1


def first_frame(latent_frame: int, frames_per_latent: int = 4) -> int:
    """The first pixel frame that a latent frame decodes to, both counted from 0."""
    return pixel_frames(latent_frame, frames_per_latent) if latent_frame else 0


def latent_of(frame: int, frames_per_latent: int = 4) -> int:
    """The latent frame that decodes to a pixel frame, both counted from 0."""
    return -(-frame // frames_per_latent)


def latent_span(
    span: tuple[float, float], fps: float | Fraction, frames_per_latent: int = 4
) -> tuple[int, int]:
    """The latent frames `start..stop-1` that show anything of some seconds `(start, stop)`."""
    start, stop = math.floor(_exact(span[0], fps)), math.ceil(_exact(span[1], fps))
    return latent_of(start, frames_per_latent), latent_of(stop - 1, frames_per_latent) + 1


def _exact(seconds: float, fps: float | Fraction) -> float:
    """Pixel frames in some seconds; whole where only the rounding of seconds says otherwise."""
    return round(float(seconds * fps), 6)


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
