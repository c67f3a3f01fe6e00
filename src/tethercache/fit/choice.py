"""The way in which a video is made, so that it fits into the memory that is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tethercache.errors import NotEnoughMemoryError
from tethercache.fit.device import free_memory
from tethercache.fit.memory import OVERHEAD, Estimate, Sizes, Tiles, estimate
from tethercache.policies import POLICIES

if TYPE_CHECKING:
    from tethercache.cache import Policy

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, by the name of its format."""


@dataclass(frozen=True)
class Machine:
    """Where a video is made.

    Attributes:
        device: such as `cpu` or `cuda:1`.
        free: bytes of memory that are free there; None: the system does not tell.
    """

    device: str
    free: int | None = None

    @classmethod
    def here(cls, device: str) -> Machine:
        """A device of this machine, and what is free on it now."""
        return cls(device, free_memory(device)[0])

    @property
    def formats(self) -> tuple[str, ...]:
        """The number formats to try, the preferred first."""
        return ("float32", "bfloat16") if self.device == "cpu" else ("bfloat16",)

    @property
    def overhead(self) -> int:
        """Bytes that the libraries of the device take."""
        return 0 if self.device == "cpu" else OVERHEAD


@dataclass(frozen=True)
class Wishes:
    """What is left to choose, and what is not.

    Attributes:
        dtype: number format of weights and cache; None: the first of the machine's that fits.
        vae_dtype: number format of the VAE; None: the same.
        limit: bytes to stay within; None: what is free.
        overlap: whether to decode beside denoising: what may be chosen, the preferred first.
    """

    dtype: str | None = None
    vae_dtype: str | None = None
    limit: int | None = None
    overlap: tuple[bool, ...] = (False,)


@dataclass(frozen=True)
class Placement:
    """One way to make a video.

    Attributes:
        device: where models compute.
        dtype: number format of weights and cache.
        vae_dtype: number format of the VAE.
        text_encoder: the device on which prompts are encoded.
        keep_rotated: whether rotated keys are kept beside raw ones; else they are made on read.
        tiles: decode in tiles, or None for whole frames.
        overlap: decode a chunk while the next one is denoised.
        estimate: what it takes of the device's memory.
    """

    device: str
    dtype: str
    vae_dtype: str
    text_encoder: str
    keep_rotated: bool
    tiles: Tiles | None
    overlap: bool
    estimate: Estimate


def choose(sizes: Sizes, policy: Policy, machine: Machine, wishes: Wishes) -> Placement:
    """The fastest way to make a video that fits.

    Args:
        sizes: the model's.
        policy: what it shall remember.
        machine: where to compute.
        wishes: what may be chosen.

    Raises:
        NotEnoughMemoryError: if none fits; with the numbers of the smallest, and with a smaller
            memory that would fit.
    """
    known = [size for size in (machine.free, wishes.limit) if size is not None]
    limit = min(known) if known else None  # where the system does not tell, trust that it fits
    placement, fits = fastest(sizes, policy, machine, wishes, limit)
    if fits:
        return placement
    assert limit is not None
    asked = "within `vram`" if wishes.limit == limit else f"free on {machine.device}"
    advice = ""
    last = Wishes(placement.dtype, wishes.vae_dtype, limit, wishes.overlap)
    for smaller in policy.smaller(sizes.chunk):
        other, fits = fastest(sizes, smaller, machine, last, limit)
        if fits:
            needs = other.estimate.total / 1e9
            advice = f"; the policy {POLICIES.spec(smaller)} needs {needs:.2f} GB"
            break
    raise NotEnoughMemoryError(
        f"this needs {placement.estimate}, but {limit / 1e9:.2f} GB are {asked}{advice}"
    )


def fastest(
    sizes: Sizes, policy: Policy, machine: Machine, wishes: Wishes, limit: int | None
) -> tuple[Placement, bool]:
    """The fastest way that fits into `limit` bytes, or the smallest if none does; and whether."""
    placement = None
    for placement in ways(sizes, policy, machine, wishes):
        if limit is None or placement.estimate.total <= limit:
            return placement, True
    assert placement is not None
    return placement, False


def ways(sizes: Sizes, policy: Policy, machine: Machine, wishes: Wishes) -> Iterator[Placement]:
    """All ways to make a video, the fastest first; the arguments are those of `choose`."""
    device = machine.device
    encoders = ("cpu",) if device == "cpu" else (device, "cpu")
    for dtype in (wishes.dtype,) if wishes.dtype else machine.formats:
        vae_dtype = wishes.vae_dtype or dtype
        # a rotation in every pass is cheaper than tiles that overlap
        for rotated, tiles in ((True, None), (False, None), (False, Tiles())):
            for overlap in wishes.overlap:
                for encoder in encoders:
                    needs = estimate(
                        sizes,
                        budget=policy.budget,
                        hidden=policy.reserve(sizes.chunk),
                        element=BYTES[dtype],
                        tiles=tiles,
                        text_encoder_on_device=encoder == device,
                        rotated=rotated,
                        overhead=machine.overhead,
                        vae_element=BYTES[vae_dtype],
                        overlap=overlap,
                    )
                    yield Placement(
                        device, dtype, vae_dtype, encoder, rotated, tiles, overlap, needs
                    )
