"""What a session has to know of the model that it is attached to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from tethercache.cache.heads import Heads
from tethercache.cache.rope import Rope


class Backbone(Protocol):
    """A causal video transformer, as a session sees it."""

    @property
    def place(self) -> int:
        """A number that no other model has."""

    @property
    def layers(self) -> int:
        """The number of blocks."""

    @property
    def heads(self) -> Heads:
        """Which of its attention heads are here."""

    def rope(self, height: int, width: int, device: torch.device) -> Rope:
        """The rotary embedding for latent frames of a size."""

    def frame(self, height: int, width: int) -> tuple[int, int, int]:
        """Tokens, heads and channels a head (T, H, D) of a latent frame of a size."""

    def can_stop_early(self) -> bool:
        """Whether what is behind the last block's commit may be left out."""

    def attached(self, compiled: bool) -> AbstractContextManager[None]:
        """Keep in the model what leads its calls to sessions, inside a `with` block."""
