"""From a stream of latents to a stream of frames: one chunk is decoded, the next one denoised."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from tethercache.video.decode import to_uint8


class Decoder(Protocol):
    """What decodes one stream of latents, such as a `StreamingDecoder`."""

    def decode(self, latents: Tensor) -> Tensor:
        """Frames in [-1, 1] `[B, 3, F_pixel, H, W]` of the next latents `[B, C, F, h, w]`."""


def overlapped(
    source: Generator[Tensor, None, None], work: Callable[[Tensor], Tensor]
) -> Generator[Tensor, None, None]:
    """Yield `work(item)` for every item of `source`, in order.

    While the caller's thread makes an item, one other thread works on the item before. On a GPU it
    does so on a stream of its own, which first waits for what made the item. At most one item waits
    for its result. An error on either side ends both and is raised here; when this generator is
    closed or interrupted, `source` is closed and the thread has ended.

    Args:
        source: makes the items; closed in any case.
        work: is never run twice at the same time, and sees the items in their order.
    """
    streams: dict[torch.device, torch.cuda.Stream] = {}

    @torch.no_grad()
    def run(item: Tensor, made: torch.cuda.Event | None) -> Tensor:
        if made is None:
            return work(item)
        if item.device not in streams:
            streams[item.device] = torch.cuda.Stream(item.device)
        stream = streams[item.device]
        with torch.cuda.stream(stream):
            stream.wait_event(made)
            result = work(item)
            stream.synchronize()  # so that nothing of `item` is read once this thread lets go of it
        return result

    with closing(source), ThreadPoolExecutor(1, thread_name_prefix="decode") as thread:
        waiting: Future[Tensor] | None = None
        for item in source:
            made = None
            if item.is_cuda:
                with torch.cuda.device(item.device):
                    made = torch.cuda.current_stream().record_event()
            result = None if waiting is None else waiting.result()
            waiting = thread.submit(run, item, made)
            del item
            if result is not None:
                yield result
        if waiting is not None:
            yield waiting.result()


@torch.no_grad()
def decoded(
    chunks: Generator[Tensor, None, None],
    decoder: Decoder,
    num_frames: int,
    *,
    overlap: bool,
) -> Generator[Tensor, None, None]:
    """Decode a stream of latents, and cut it to a length.

    Args:
        chunks: clean latents `[B, C, F, h, w]`; closed in any case.
        decoder: of this stream.
        num_frames: the most frames.
        overlap: whether a chunk is decoded while the next one is made.

    Yields:
        uint8 frames `[B, F, H, W, 3]` on the CPU.
    """

    def decode(chunk: Tensor) -> Tensor:
        return to_uint8(decoder.decode(chunk)).cpu()

    each = overlapped if overlap else _one_by_one
    yield from first(num_frames, each(chunks, decode), axis=1)


def first(
    length: int, pieces: Generator[Tensor, None, None], axis: int
) -> Generator[Tensor, None, None]:
    """The first `length` frames of all pieces together; they lie along an axis."""
    with closing(pieces):
        for piece in pieces:
            kept = piece.narrow(axis, 0, min(length, piece.shape[axis]))
            length -= kept.shape[axis]
            if kept.shape[axis]:
                yield kept


def _one_by_one(
    source: Generator[Tensor, None, None], work: Callable[[Tensor], Tensor]
) -> Generator[Tensor, None, None]:
    """What `overlapped` does, in one thread."""
    with closing(source):
        yield from map(work, source)
