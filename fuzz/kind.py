"""What a kind of input is: how one is made, and what takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar

from tethercache.errors import TetherCacheError


class Kind(ABC):
    """A kind of input. Everything happens in the current folder, which is empty at first.

    Attributes:
        name: of the kind, and of its folder in the corpus.
        share: its part of the inputs of a campaign, relative to the others.
        refusals: what may be raised at an input that is not right; all else is a finding.
        least: fewest inputs of a campaign.
        most: most inputs of a campaign, where each is expensive.
        short: inputs in the suite.
    """

    name: ClassVar[str]
    share: ClassVar[int] = 1
    refusals: ClassVar[tuple[type[BaseException], ...]] = (ValueError, TetherCacheError, OSError)
    least: ClassVar[int] = 1000
    most: ClassVar[int | None] = None
    short: ClassVar[int] = 20

    def prepare(self) -> None:  # noqa: B027 - not every kind has something to prepare
        """Make what all inputs start from; called once."""

    @abstractmethod
    def make(self, rng: Random) -> bytes:
        """An input, from nothing but `rng` and what was prepared."""

    @abstractmethod
    def take(self, content: bytes) -> str | None:
        """Give an input to the project, and assert what must hold if it is not refused.

        Returns:
            What became of it, if that is more than that it was accepted.
        """
