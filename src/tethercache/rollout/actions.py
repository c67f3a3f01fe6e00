"""What changes before a chunk is made, ready to be applied. Loads no torch of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tethercache.cache import Policy
    from tethercache.rollout.noise import NoiseSource

HOWS = ("soft", "recache", "cut")
"""What becomes of the memory where the prompt changes; see `Rollout.switch`."""


@dataclass(frozen=True, eq=False)
class Action:
    """What changes before a chunk is made; None: that stays.

    Attributes:
        prompt_embeds: text embeddings `[B, L_text, C_text]` that hold from here on.
        how: what becomes of the memory then; see `Rollout.switch`.
        noise: where noise comes from.
        policy: what the model remembers, a policy of the same sizes.
        pin: latent frames `(start, stop)` to keep in memory.
        forget: latent frames `(start, stop)` that no pass shall see again.
    """

    prompt_embeds: Tensor | None = None
    how: str = "soft"
    noise: NoiseSource | None = None
    policy: Policy | None = None
    pin: tuple[int, int] | None = None
    forget: tuple[int, int] | None = None


Actions = Mapping[int, Sequence[Action]]
"""By the number of the chunk before which they take effect."""


def in_force(actions: Actions, name: str, chunk: int) -> Any:
    """The latest `noise` or `policy` of the actions of all chunks before `chunk`; None if none."""
    values = (
        getattr(action, name)
        for number in sorted(actions, reverse=True)
        if number < chunk
        for action in reversed(actions[number])
    )
    return next((value for value in values if value is not None), None)
