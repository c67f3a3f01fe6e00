"""One video, or one batch of videos, in progress: its banks, its prompt, how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tethercache.cache.backbone import Backbone
from tethercache.cache.bank import Bank
from tethercache.cache.call import Call, PromptMemory
from tethercache.cache.policy import PassKind
from tethercache.cache.rope import Rope
from tethercache.state import State, check_fits, each_tensor, laid_out, layout


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

    @classmethod
    def of(cls, backbone: Backbone, budget: int, reserve: int, *, keep_rotated: bool) -> Stream:
        """A stream of a model that has not begun; see `Bank`."""
        layers = backbone.layers
        shared: dict[str, Tensor] = {}
        options: dict[str, Any] = {"keep_rotated": keep_rotated, "heads": backbone.heads}
        banks = [Bank(budget, reserve, n, shared, **options) for n in range(layers)]
        return cls(banks, PromptMemory(layers))

    def coming(self, frames: int, device: torch.device) -> Tensor:
        """Which frames of the stream the next ones are, int64 `[1, frames]`."""
        return self.committed + torch.arange(frames, device=device)[None]

    def fit(self, latents: Tensor, backbone: Backbone) -> None:
        """Take over the sizes of the latents `[B, C, F, h, w]` of the first call.

        Raises:
            ValueError: if those of a later one differ.
        """
        batch, channels, _, height, width = latents.shape
        shape = (batch, channels, height, width)
        if self.shape not in (None, shape):
            raise ValueError(f"[B, C, h, w] of a stream cannot change: {self.shape} to {shape}")
        if self.rope is None:
            self.shape, self.rope = shape, backbone.rope(height, width, latents.device)

    def begin_replay(self, *, anew: bool) -> None:
        """Be ready for a pass that reads frames again; `anew`: forget all others first."""
        self.passes = []
        if anew:
            self.prompt = PromptMemory(len(self.caches))
            self.caches[0].shared.clear()  # the layers have one dictionary
            for bank in self.caches:
                bank.clear()

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


def check_frame(state: Mapping[str, Any], backbone: Backbone) -> None:
    """Refuse a stream's state whose frames are not as large as those of a model.

    Raises:
        ValueError: naming both sizes.
    """
    found = {"frame": list(state["layers"][0]["frames"].shape[3:])}
    expected = {"frame": list(backbone.frame(*state["shape"][2:]))}
    check_fits("session", {"made_for": found}, expected)
