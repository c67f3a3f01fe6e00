r"""Spectral Self-Anchoring: low frequencies from early frames, the rest from the window.

Source: FreqForcing, arXiv 2607.27110. Some early frames are kept as anchors. In the first denoising
steps the chunk is attended to twice, once to sink and window, once to the anchors alone, and the
outputs, as fields over the chunk's grid of frames, rows and columns, become

.. math:: A = A_{loc} + w\,\mathcal F^{-1}\big(H \cdot \mathcal F(A_{anc} - A_{loc})\big), \qquad
          H = \exp\Big(-\frac{k_t^2}{2 \sigma_t^2} - \frac{k_y^2 + k_x^2}{2 \sigma_{xy}^2}\Big)

in float32, frequencies in cycles a token. All other passes see sink and window.

Ours, as the source as we know it is silent or differs: the anchors are part of the K frames, so
that memory and attention cost what they do elsewhere and positions stay in the trained window
(there they come on top); they are every third frame behind the sink, from the time when the first
frame leaves; the two steps are the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tethercache.arguments import number, positive, whole_number
from tethercache.cache import Bank, Cut, Event, Fused, Pass, Slots, View
from tethercache.policies.window import Window


@dataclass(frozen=True)
class Anchor(Window):
    """Sink, early anchors, and the newest frames, read in two ways.

    Args:
        sink: S, latent frames at the start of the video that are kept for ever.
        window: K, latent frames that are kept: sink, anchors and the newest, chunk included.
        positions: see `Window`.
        anchors: early latent frames that are kept for the second read, at least 1.
        every: distance between two anchors, in frames.
        weight: w, share of the anchors' low frequencies, in [0, 1].
        sigma_time: width of H over frames, > 0.
        sigma_space: width of H over rows and columns, > 0.
        steps: denoising steps, the first ones, that read the anchors.
    """

    sink: int = 3
    window: int = 21
    anchors: int = 6
    every: int = 3
    weight: float = 0.6
    sigma_time: float = 0.125
    sigma_space: float = 0.125
    steps: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("anchors", self.anchors, least=1)
        whole_number("every", self.every, least=1)
        number("weight", self.weight, least=0, most=1)
        positive("sigma_time", self.sigma_time)
        positive("sigma_space", self.sigma_space)
        whole_number("steps", self.steps, least=0)

    @property
    def kept(self) -> int:
        """As many slots as sink and anchors take; these are not the first ones here."""
        return self.sink + self.anchors

    @property
    def recent_size(self) -> int:
        """The newest frames."""
        return self.window - self.kept

    def check_chunk(self, committed: int, frames: int) -> None:
        """All anchors must be there when the first frame leaves."""
        super().check_chunk(committed, frames)
        last = self.sink + self.every * (self.anchors - 1)
        if last + frames > self.window:
            raise ValueError(
                f"`window` ({self.window}) must be at least the last anchor ({last}) + chunk "
                f"({frames})"
            )

    def oldest(self, bank: Bank, n: int) -> Slots:
        """The oldest that are neither sink nor anchors."""
        return bank.oldest(n, among=self._moving(bank))

    def leave(self, bank: Bank, frames: Slots) -> None:
        """From now on there are anchors."""
        bank.notes[_BEGUN] = torch.ones((), device=frames.index.device)

    def on(self, bank: Bank, event: Event) -> None:
        """Begin anew behind a cut; see `Policy.on` for the rest."""
        super().on(bank, event)
        if isinstance(event, Cut):
            bank.notes.pop(_BEGUN, None)

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        """Sink and window, and in the first denoising steps the anchors besides."""
        if _BEGUN not in bank.notes:
            return View()
        local = View(bank.slots(0, self.sink) + self._moving(bank))
        if pass_.commits or pass_.step >= self.steps:
            return local
        anchors = self._anchors(bank)
        none = ~bank.live(anchors).any(dim=1) if bank.any_forgotten else None
        fuse = partial(self._fuse, grid=(len(bank.current), *bank.grid), none=none)
        return Fused((local, View(anchors)), fuse)

    def _anchors(self, bank: Bank) -> Slots:
        # slots were filled in the order of time, and these have not been given away
        span = self.every * (self.anchors - 1) + 1
        return bank.slots(self.sink, self.sink + span)[:: self.every]

    def _moving(self, bank: Bank) -> Slots:
        places = [self.sink + self.every * i for i in range(self.anchors)]
        first, *others = zip(places, [*places[1:], bank.readable], strict=True)
        moving = bank.slots(first[0] + 1, first[1])
        for place, following in others:
            moving = moving + bank.slots(place + 1, following)
        return moving

    def _fuse(
        self, local: Tensor, anchored: Tensor, grid: tuple[int, int, int], none: Tensor | None
    ) -> Tensor:
        """`[B, L, H, D]` each; `none` `[B]` says where no anchor is left."""
        apart = anchored.float() - local.float()
        if none is not None:
            apart = apart.masked_fill(none[:, None, None, None], 0)
        spectrum = torch.fft.rfftn(apart.unflatten(1, grid), dim=(1, 2, 3))
        spectrum = spectrum * self._filter(grid, local.device)[..., None, None]
        low = torch.fft.irfftn(spectrum, s=grid, dim=(1, 2, 3)).flatten(1, 3)
        return torch.add(local.float(), low, alpha=self.weight).to(local.dtype)

    def _filter(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """H at the frequencies of `rfftn`."""
        t, y = (torch.fft.fftfreq(n, device=device) for n in grid[:2])
        x = torch.fft.rfftfreq(grid[2], device=device)
        space = (y[:, None] ** 2 + x**2) / self.sigma_space**2
        return torch.exp(-(t[:, None, None] ** 2 / self.sigma_time**2 + space) / 2)


_BEGUN = "anchor.begun"
