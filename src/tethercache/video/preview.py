"""Latents to colours at next to no cost: one colour for each latent cell.

The mean colour of the pixels that a latent cell stands for is nearly linear in its channels. The
matrix from one to the other is found on the first chunk of the video itself, which is decoded
properly. So it needs no weights and no table of numbers for every VAE, and it suits the scene.

Axes: B samples, C latent channels, F latent frames, h and w latent rows and columns; 3 colours,
F_pixel pixel frames, H and W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tethercache.state import State, check_fits, laid_out, layout
from tethercache.video.decode import SlicedDecoder, StreamingDecoder

STATE_VERSION = 1

_RIDGE = 3e-3  # in units of a latent's variance, 1: for chunks with hardly more cells than channels


class PreviewDecoder:
    """Stands in for a `StreamingDecoder` where a rough picture is enough.

    The first call decodes. From the second on, every latent cell is a square of one colour and the
    frames of one latent frame are the same; colours that the first chunk did not show come out
    roughly. On 10 s of the shipped model a cell is wrong by about 12 of 255 levels on average.

    Args:
        decoder: decodes the first chunk; a fresh one, for it then belongs to this stream.
    """

    def __init__(self, decoder: StreamingDecoder | SlicedDecoder) -> None:
        self._decoder = decoder
        self._scale = decoder.vae.spatial_compression_ratio
        self._repeat = decoder.vae.config.scale_factor_temporal
        self._projection: Tensor | None = None

    def state_dict(self) -> State:
        """What the decoder has to remember between two calls; see `tethercache.state`."""
        known = self._projection
        return {
            "made_for": self._made_for(),
            "colours": None if known is None else layout(known),
            "decoder": self._decoder.state_dict() if known is None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another preview of this VAE was; forget what is here.

        Args:
            state: what `state_dict` returned. Its tensors are copied, and go to the device of the
                latents with the next call.

        Raises:
            ValueError: naming what differs; nothing has changed then.
        """
        check_fits("preview", state, self._made_for())
        if state["decoder"] is not None:
            self._decoder.load_state_dict(state["decoder"])
        self._projection = None if state["colours"] is None else laid_out(state["colours"])

    def _made_for(self) -> State:
        return {"version": STATE_VERSION, "scale": self._scale, "repeat": self._repeat}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Guess the next latent frames of the stream.

        Args:
            latents: normalised latents, as the transformer makes them, `[B, C, F, h, w]`.

        Returns:
            float32 frames in [-1, 1], `[B, 3, F_pixel, H, W]`. The first latent frame of the stream
            gives 1 pixel frame, every later one 4, as when it is decoded.
        """
        if self._projection is None:
            frames = self._decoder.decode(latents)
            self._projection = fit_colours(latents, self._cells(frames))
            return frames
        projection = self._projection.to(latents.device)
        guess = torch.einsum("bcfhw,cd->bdfhw", _with_one(latents), projection)
        for axis, times in ((2, self._repeat), (3, self._scale), (4, self._scale)):
            guess = guess.repeat_interleave(times, dim=axis)
        return guess.clamp(-1.0, 1.0)

    def _cells(self, frames: Tensor) -> Tensor:
        """The mean colour of every latent cell `[B, 3, F, h, w]` of the stream's first frames."""
        single = frames[:, :, :1].expand(-1, -1, self._repeat, -1, -1)
        whole = torch.cat((single, frames[:, :, 1:]), dim=2)
        return F.avg_pool3d(whole, (self._repeat, self._scale, self._scale))


def fit_colours(latents: Tensor, colours: Tensor) -> Tensor:
    """Least squares from latents to colours, with a slight pull towards grey.

    Args:
        latents: `[B, C, F, h, w]`.
        colours: `[B, 3, F, h, w]`.

    Returns:
        The matrix from channels and a constant 1 to colours, float32 `[C + 1, 3]`.
    """
    known, wanted = (
        x.movedim(1, -1).flatten(0, -2).cpu().double() for x in (_with_one(latents), colours)
    )
    pull = _RIDGE * len(known) * torch.eye(known.shape[1], dtype=known.dtype)
    pull[-1, -1] = 0  # the constant is free
    matrix: Tensor = torch.linalg.solve(known.T @ known + pull, known.T @ wanted)
    return matrix.float().to(latents.device)


def _with_one(latents: Tensor) -> Tensor:
    latents = latents.float()
    return torch.cat((latents, torch.ones_like(latents[:, :1])), dim=1)
