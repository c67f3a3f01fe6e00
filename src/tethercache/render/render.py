"""A video in the making."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.request import VideoPlan, VideoRequest


class Render:
    """A video in the making: its frames, chunk by chunk; memory does not grow with its length.

    Close it, or use it up: the model can be used otherwise only then.

    Args:
        request: what is made.
        plan: its chunks and its length.
        stream: uint8 frames `[1, F, H, W, 3]`, as `CausalVideoPipeline.stream` yields them.
    """

    def __init__(
        self, request: VideoRequest, plan: VideoPlan, stream: Generator[Tensor, None, None]
    ) -> None:
        self.request = request
        self.plan = plan
        self._stream = stream

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The next chunk of frames, uint8 `[F, H, W, 3]` on the CPU."""
        return next(self._stream)[0]

    def close(self) -> None:
        """Stop here and leave the model as it was."""
        self._stream.close()
