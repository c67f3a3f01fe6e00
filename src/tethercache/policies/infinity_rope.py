"""Infinity-RoPE: a short window with a sink of one frame, flushed where the prompt changes.

Source: Infinity-RoPE's training-free rules.

* Frames stand at 0..n-1 in time order, so a video may be of any length (`policies/window.py`).
* KV flush: where the prompt changes, only the sink and the newest `flush` frames stay, so that the
  old prompt's history does not hold the new one back.
* RoPE cut: at a cut, the next chunk stands at a far temporal position (45 by default) while it is
  made. All policies here do so, see `Cut`.

The cross-attention's keys, which it resets too, are renewed at a change of the prompt anyway.

Deviations: the sink's key is rotated on read like any other, there once to place 0, which is where
it stands here, too. A cut keeps the newest 2 frames as a flush does, whatever `flush` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from tethercache.arguments import whole_number
from tethercache.cache import Bank, Event, Switch
from tethercache.policies.window import Window


@dataclass(frozen=True)
class InfinityRope(Window):
    """A window that forgets all but its sink and its newest frames where the prompt changes.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that attention reads, sink and current chunk included.
        positions: see `Window`.
        flush: newest latent frames that stay, beside the sink, where the prompt changes.
    """

    sink: int = 1
    window: int = 6
    flush: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("flush", self.flush, least=0)

    def on(self, bank: Bank, event: Event) -> None:
        """Flush at a change of the prompt; see `Policy.on` for the others."""
        if isinstance(event, Switch):
            self.keep_newest(bank, self.flush)
        else:
            super().on(bank, event)
