"""The check before a generation: does it fit into memory, and how."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tethercache.cli.device import free_memory
from tethercache.errors import NotEnoughMemoryError
from tethercache.policies import POLICIES

if TYPE_CHECKING:
    from tethercache.cache import Policy
    from tethercache.memory import Placement, Sizes
    from tethercache.models import Parts

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def formats(device: str) -> tuple[str, ...]:
    """The number formats to try on a device, the preferred first."""
    return ("float32", "bfloat16") if device == "cpu" else ("bfloat16",)


def parse_vram(text: str) -> int | None:
    """`--vram` in bytes, None for `auto`."""
    if text == "auto":
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 1 <= size * 2**30 < float("inf"):
        raise ValueError(f"--vram ({text}) must be a number of GB, such as 12, 16 or 24, or auto")
    return int(size * 2**30)


def use_threads(number: int | None, device: str, parts: Parts) -> None:
    """Set PyTorch's threads: to `number`, or to what suits a model on this CPU.

    What another device computes needs no more than PyTorch has anyway.
    """
    import torch

    from tethercache.execution import default_threads
    from tethercache.models.sizes import measure

    if number is None and device == "cpu":
        number = default_threads(measure(parts).activations)
    if number is not None:
        torch.set_num_threads(number)


def choose(
    parts: Parts, policy: Policy, device: str, dtype: str | None, vram: int | None, **extra: Any
) -> tuple[str, Placement]:
    """The number format, `dtype` or the first in which a generation fits, and how it fits.

    The arguments are those of `check_memory`.

    Raises:
        NotEnoughMemoryError: if it fits in none; see `check_memory`.
    """
    *others, last = (dtype,) if dtype else formats(device)
    for number_format in others:
        with suppress(NotEnoughMemoryError):
            return number_format, check_memory(parts, policy, device, number_format, vram, **extra)
    return last, check_memory(parts, policy, device, last, vram, **extra)


def check_memory(
    parts: Parts,
    policy: Policy,
    device: str,
    dtype: str,
    vram: int | None,
    *,
    vae_dtype: str | None = None,
    overlap: tuple[bool, ...] = (False,),
) -> Placement:
    """Choose where the text encoder works and how to decode, so that a generation fits.

    Args:
        parts: the model.
        policy: what it shall remember.
        device: where to compute.
        dtype: number format of weights and cache.
        vram: bytes to stay within; None: what is free on the device.
        vae_dtype: number format of the VAE; None: the same.
        overlap: whether to decode beside denoising: what may be chosen, the preferred first.

    Raises:
        NotEnoughMemoryError: with the numbers, and with a smaller memory that would fit.
    """
    from tethercache.memory import RESERVE, place
    from tethercache.models.sizes import measure

    sizes, free = measure(parts), free_memory(device)[0]
    known = [size for size in (free, vram) if size is not None]
    limit = min(known) if known else None
    chunk, element = parts.settings.chunk_size, BYTES[dtype]
    reserve = 0 if device == "cpu" else RESERVE

    def fit(policy: Policy, limit: int, sizes: Sizes = sizes) -> Placement:
        return place(
            sizes,
            limit,
            budget=policy.budget,
            staging=policy.reserve(chunk),
            element=element,
            reserve=reserve,
            offload=device != "cpu",
            vae_element=BYTES[vae_dtype] if vae_dtype else None,
            overlap=overlap,
        )

    if limit is None:  # the system does not tell; trust that it fits
        return fit(policy, 1 << 62)
    placement = fit(policy, limit)
    if placement.fits:
        return placement
    asked = "within --vram" if vram == limit else f"free on {device}"
    advice = ""
    for smaller in _smaller(policy, chunk):
        if (other := fit(smaller, limit)).fits:
            needs = other.estimate.total / 1e9
            advice = f"; --policy {POLICIES.spec(smaller)} needs {needs:.2f} GB"
            break
    raise NotEnoughMemoryError(
        f"this needs {placement.estimate}, but {limit / 1e9:.2f} GB are {asked}{advice}"
    )


def _smaller(policy: Policy, chunk: int) -> list[Policy]:
    """The same policy with ever fewer latent frames to remember, by whole chunks."""
    name = next((n for n in ("memory", "window") if hasattr(policy, n)), None)
    if name is None:
        return []
    smaller = []
    for size in range(getattr(policy, name) - chunk, 0, -chunk):
        try:
            smaller.append(dataclasses.replace(policy, **{name: size}))
        except ValueError:  # the policy does not allow so few
            break
    return smaller
