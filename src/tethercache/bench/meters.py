"""Clocks and memory meters, of a CPU and of a CUDA device."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Span:
    """What a piece of work took, in seconds.

    Attributes:
        wall: time on the wall.
        cpu: processor time of all threads of this process.
    """

    wall: float
    cpu: float


class Clock:
    """Times work on one device; where the device works on its own, it is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stamp(self) -> Span:
        """Now, once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Span(time.perf_counter(), time.process_time())

    def since(self, stamp: Span) -> Span:
        """What has passed since `stamp`."""
        now = self.stamp()
        return Span(now.wall - stamp.wall, now.cpu - stamp.cpu)

    def mark(self) -> Any:
        """A point in the order of the device's work that costs next to nothing to set."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self.device))
            return event
        return time.perf_counter()

    def between(self, first: Any, then: Any) -> float:
        """Seconds of wall time from one mark to another; the device must have passed both."""
        if self.device.type == "cuda":
            return float(first.elapsed_time(then)) / 1e3
        return float(then - first)


class Timeline:
    """Who was at work when: every moment belongs to the innermost open phase.

    From `start` on, `phase(name)` opens a phase; `totals` are the seconds of each until now, the
    phases inside it not counted. What lies outside all phases is `REST`.
    """

    REST = "rest"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[Any, str]] = []
        self._open: list[str] = [self.REST]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Give the time inside to `name`."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """Open a phase."""
        self._open.append(name)
        self._marks.append((self._clock.mark(), name))

    def leave(self) -> None:
        """Close the innermost phase."""
        self._open.pop()
        self._marks.append((self._clock.mark(), self._open[-1]))

    def totals(self) -> dict[str, float]:
        """Seconds by phase from the first mark until now."""
        last = self._clock.mark()
        self._clock.stamp()
        found: dict[str, float] = {}
        ends = [mark for mark, _ in self._marks[1:]] + [last]
        for (mark, name), end in zip(self._marks, ends, strict=True):
            found[name] = found.get(name, 0.0) + self._clock.between(mark, end)
        return found

    def start(self) -> None:
        """Begin anew."""
        self._marks = [(self._clock.mark(), self.REST)]


class Memory(Protocol):
    """Bytes that tensors take on a device, while the context is open."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> Any: ...

    def level(self) -> int:
        """Bytes that are taken now."""

    def watch(self) -> None:
        """Begin a new search for the peak."""

    def highest(self) -> int:
        """The most bytes taken at one time since `watch`."""


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations return while it is active, now and at most.

    For devices whose allocator keeps no account. What an operation takes inside itself and gives
    back before it returns is not seen; of PyTorch's fused attention and its matrix products on a
    CPU that is a few MB.

    Args:
        known: tensors that were there before and are not counted, such as weights.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        TorchDispatchMode.__init__(self)
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return made

    def level(self) -> int:
        """Bytes alive."""
        return self.now

    def watch(self) -> None:
        """Forget the peak."""
        self.peak = self.now

    def highest(self) -> int:
        """The peak."""
        return self.peak

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            self._sizes[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


class CudaBytes:
    """The account of PyTorch's allocator on a CUDA device, workspaces of kernels included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> CudaBytes:
        return self

    def __exit__(self, *error: object) -> None: ...

    def level(self) -> int:
        """Bytes allocated."""
        return torch.cuda.memory_allocated(self._device)

    def watch(self) -> None:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def highest(self) -> int:
        """The peak."""
        return torch.cuda.max_memory_allocated(self._device)


def memory_meter(device: torch.device, known: Iterable[Tensor]) -> Memory:
    """The meter that suits a device; `known` as for `LiveBytes`."""
    return CudaBytes(device) if device.type == "cuda" else LiveBytes(known)


def matrix_peak(
    device: torch.device, dtype: torch.dtype, *, size: int | None = None, repeats: int = 12
) -> float:
    """The most operations a second that a large matrix product reached here.

    The best of several products of square matrices, with the threads that PyTorch is set to; what a
    chunk reaches is reported as a share of it.

    Args:
        device: where to compute.
        dtype: number format.
        size: rows and columns; None: 2048 on a CPU, else 8192.
        repeats: number of products.
    """
    size = size or (2048 if device.type == "cpu" else 8192)
    random = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=random, device=device).to(dtype) for _ in range(2))
    clock, best = Clock(device), 0.0
    out = torch.empty_like(a)
    for _ in range(repeats):
        start = clock.stamp()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / clock.since(start).wall)
    return best
