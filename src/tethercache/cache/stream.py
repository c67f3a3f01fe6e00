"""One video, or one batch of videos, in progress: its banks, its prompt, how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tethercache.cache.bank import Bank
from tethercache.cache.call import Call, PromptMemory
from tethercache.cache.policy import PassKind
from tethercache.cache.rope import Rope
from tethercache.state import State, each_tensor, laid_out, layout


@dataclass
class Stream:
    """What a session keeps of one stream.

    Attributes:
        caches: one bank a layer.
        prompt: what is known of the prompt; it is computed again after a state is loaded.
        shape: `(B, C, h, w)` of its latents, from the first call on.
        rope: rotary embedding of the token grid, from the first call on.
        committed: latent frames that context passes have committed.
        passes: those of the open chunk.
        call: the one of the open pass.
    """

    caches: list[Bank]
    prompt: PromptMemory
    shape: tuple[int, ...] | None = None
    rope: Rope | None = None
    committed: int = 0
    passes: list[PassKind] = field(default_factory=list)
    call: Call | None = None

    def state_dict(self) -> State:
        """What the stream has between two chunks; see `tethercache.state`."""
        # layer by layer, so that a device need not hold all of it twice
        return self._state([each_tensor(bank.state_dict(), Tensor.cpu) for bank in self.caches])

    def load_state_dict(
        self, state: Mapping[str, Any], device: torch.device | str | None = None
    ) -> None:
        """Take over what `state_dict` returned."""
        self.committed, self.shape = state["committed"], tuple(state["shape"])
        for bank, saved in zip(self.caches, state["layers"], strict=True):
            bank.load_state_dict(saved, device)
        first = self.caches[0]
        first.shared.clear()  # the layers have one dictionary
        for name, saved in state["shared"].items():
            first.shared[name] = laid_out(saved, first.frames.device)

    def copy_to(self, other: Stream) -> None:
        """Let another stream of the same session settings be where this one is."""
        other.load_state_dict(self._state(bank.state_dict() for bank in self.caches))

    def _state(self, layers: Iterable[State]) -> State:
        assert self.shape is not None
        shared = {name: layout(x) for name, x in self.caches[0].shared.items()}
        counters = {"committed": self.committed, "shape": list(self.shape)}
        return counters | {"shared": shared, "layers": layers}
