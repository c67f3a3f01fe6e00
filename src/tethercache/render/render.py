"""A video in the making."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.request import VideoPlan, VideoRequest
    from tethercache.rollout import Rollout
    from tethercache.video import PreviewDecoder, StreamingDecoder


class Render:
    """A video in the making: its frames, chunk by chunk; memory does not grow with its length.

    Close it, or use it up: it holds the model until then.

    Args:
        request: what is made.
        plan: its chunks and its length.
        rollout: makes its latents.
        decoder: decodes them.
        frames: what becomes of both, uint8 `[1, F, H, W, 3]`; see `CausalVideoPipeline.frames`.
    """

    def __init__(
        self,
        request: VideoRequest,
        plan: VideoPlan,
        rollout: Rollout,
        decoder: StreamingDecoder | PreviewDecoder,
        frames: Generator[Tensor, None, None],
    ) -> None:
        self.request = request
        self.plan = plan
        self.rollout = rollout
        self.decoder = decoder
        self._frames = frames

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The next chunk of frames, uint8 `[F, H, W, 3]` on the CPU."""
        return next(self._frames)[0]

    def close(self) -> None:
        """Stop here and leave the model as it was."""
        self._frames.close()
