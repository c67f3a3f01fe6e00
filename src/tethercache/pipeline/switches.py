"""Switches that pipelines of diffusers have: of the VAE, and to end a video early."""

from __future__ import annotations

from typing import Any


class Switches:
    """The part of `CausalVideoPipeline` that turns things on and off."""

    vae: Any
    _interrupt = False
    _num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether the video in the making ends with its present chunk; set by a callback.

        It holds for all streams of the pipeline, and the next one that begins takes it back.
        """
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = bool(value)

    @property
    def num_timesteps(self) -> int:
        """How many denoising steps the latest video takes, all chunks together."""
        return self._num_timesteps

    def enable_vae_tiling(self, **tile: Any) -> None:
        """Decode in tiles from the next video on; the sizes are those of `vae.enable_tiling`."""
        self.vae.enable_tiling(**tile)

    def disable_vae_tiling(self) -> None:
        """Decode whole frames."""
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Decode the videos of a batch one after the other, from the next one on."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode the videos of a batch together."""
        self.vae.disable_slicing()
