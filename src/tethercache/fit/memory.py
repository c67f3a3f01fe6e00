"""How much memory a generation takes, by arithmetic alone.

What is resident while a video is made: the weights of transformer and VAE, the cache, the keys and
values of the prompt, what the VAE's causal convolutions remember of the stream, and the larger of
what a transformer pass and a decode need on top. The text encoder is used first and freed, so it
has to fit alone, or stays on the CPU.

The cache is exact. What a pass and a decode need on top was found by running the real modules at
full size on tensors without storage and counting the bytes alive (`tests/fit/test_memory.py` does
it again); it leaves out what the GPU's libraries take for themselves: `OVERHEAD` stands for that.

Sizes are in bytes, GB is 1e9 of them; a GPU sold with 16 GB has 16 x 2 ** 30.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tethercache.models import Preset

OVERHEAD = 600_000_000
"""What a GPU's context and the workspaces of its libraries take; an assumption."""

# of a VAE, Wan2.1's and Wan2.2's: the channels of its decoder at full resolution, and the numbers
# per pixel of a frame that decoding keeps, and that it needs on top
_VAE = {False: (96, 2366, 2790), True: (256, 1785, 3634)}

# numbers per token that a pass needs, in units of the model's width and of the feed-forward width:
# in a feed-forward layer, and in an attention
_PASS_WIDTH, _PASS_FFN, _PASS_ATTENTION = 4, 2, 12


@dataclass(frozen=True)
class Sizes:
    """What of a model its memory depends on.

    Attributes:
        transformer: parameters.
        text_encoder: parameters.
        vae: parameters.
        layers: transformer blocks.
        heads: of the attention.
        head_dim: channels of a head.
        ffn: channels in the feed-forward layers.
        tokens: tokens of a latent frame.
        height: pixel rows of the video.
        columns: pixel columns of the video.
        chunk: latent frames denoised jointly.
        text_length: tokens of a prompt.
        vae_base: channels of the VAE's decoder at full resolution.
        vae_patched: whether it is of the kind of Wan2.2, whose pixels come in patches.
    """

    transformer: int
    text_encoder: int
    vae: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    tokens: int
    height: int
    columns: int
    chunk: int = 3
    text_length: int = 512
    vae_base: int = 96
    vae_patched: bool = False

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def activations(self) -> int:
        """Numbers in the activations of a chunk, between two layers."""
        return self.chunk * self.tokens * self.width


WAN_1_3B = Sizes(
    transformer=1_418_996_800,
    text_encoder=5_680_910_336,
    vae=126_892_531,
    layers=30,
    heads=12,
    head_dim=128,
    ffn=8960,
    tokens=1560,
    height=480,
    columns=832,
)
"""Wan2.1-T2V-1.3B at 480x832, which most presets are fine-tunings of."""

WAN_14B = replace(WAN_1_3B, transformer=14_288_491_584, layers=40, heads=40, ffn=13_824)
"""Wan2.1-T2V-14B at 480x832."""

WAN_5B = replace(
    WAN_1_3B,
    transformer=4_999_787_712,
    vae=704_688_668,
    heads=24,
    ffn=14_336,
    tokens=880,
    height=704,
    columns=1280,
    vae_base=256,
    vae_patched=True,
)
"""Wan2.2-TI2V-5B at 704x1280."""

PUBLISHED = {"1.3B": WAN_1_3B, "5B": WAN_5B, "14B": WAN_14B}
"""The models by the names that the authors of Wan give to their sizes."""


def sizes_of(preset: Preset) -> Sizes:
    """The sizes of a preset, whose files need not be here."""
    return replace(PUBLISHED[preset.size], chunk=preset.settings.chunk_size)


@dataclass(frozen=True)
class Tiles:
    """Decoding in square tiles, in pixels."""

    size: int = 256
    stride: int = 224


@dataclass(frozen=True)
class Estimate:
    """What a generation takes on the device, in bytes.

    Attributes:
        weights: transformer and VAE.
        cache: keys and values of the latent frames.
        prompt: keys and values of the text.
        features: what the VAE remembers of the stream.
        work: what the larger of a pass and a decode needs on top, or both if they overlap.
        overhead: `OVERHEAD`, where the device is a GPU.
        text_encoder: its weights, which are gone before the rest is needed; 0 if it stays off.
    """

    weights: int
    cache: int
    prompt: int
    features: int
    work: int
    overhead: int
    text_encoder: int

    @property
    def total(self) -> int:
        """The most that is needed at any time."""
        running = self.weights + self.cache + self.prompt + self.features + self.work
        return max(running, self.text_encoder) + self.overhead

    def __str__(self) -> str:
        parts = (
            ("weights", self.weights),
            ("cache", self.cache),
            ("decode", self.features + self.work),
            ("overhead", self.overhead),
        )
        shown = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts if size)
        return f"{self.total / 1e9:.2f} GB ({shown})"


def cache_bytes(
    sizes: Sizes, *, budget: int, hidden: int = 0, element: int = 2, rotated: bool = True
) -> int:
    """The cache of one video.

    Args:
        sizes: the model's.
        budget: latent frames that attention reads (K).
        hidden: latent frames for which the policy needs slots beside these (`Policy.reserve`).
        element: bytes of a number.
        rotated: whether the readable keys are kept a second time, as attention reads them.
    """
    frame = sizes.layers * sizes.tokens * sizes.width * element
    statistics = 4 * 4 * sizes.layers * sizes.width * (budget + hidden)
    return 2 * (budget + hidden) * frame + (budget * frame if rotated else 0) + statistics


def decode_bytes(sizes: Sizes, *, element: int = 2, tiles: Tiles | None = None) -> tuple[int, int]:
    """What the VAE keeps between two latent frames, and what decoding one needs on top.

    Tiles save little: every tile keeps its own memory of the stream, and tiles overlap.
    """
    area = decoded = sizes.height * sizes.columns
    if tiles is not None:
        decoded = _covered(sizes.height, tiles) * _covered(sizes.columns, tiles)
        area = min(tiles.size, sizes.height) * min(tiles.size, sizes.columns)
    base, features, decoding = _VAE[sizes.vae_patched]
    scale = element * sizes.vae_base
    return decoded * features * scale // base, area * decoding * scale // base


def pass_bytes(sizes: Sizes, *, element: int = 2) -> int:
    """What a transformer pass needs on top of weights and cache, with fused attention."""
    numbers = _PASS_WIDTH * sizes.width + _PASS_FFN * sizes.ffn
    numbers = max(numbers, _PASS_ATTENTION * sizes.width)
    return sizes.chunk * sizes.tokens * numbers * element


def estimate(
    sizes: Sizes,
    *,
    budget: int,
    hidden: int = 0,
    element: int = 2,
    tiles: Tiles | None = None,
    text_encoder_on_device: bool = True,
    rotated: bool = True,
    overhead: int = OVERHEAD,
    vae_element: int | None = None,
    overlap: bool = False,
) -> Estimate:
    """Add up what a generation takes.

    Args:
        sizes: the model's.
        budget: latent frames that attention reads (K).
        hidden: latent frames for which the policy needs slots beside these (`Policy.reserve`).
        element: bytes of a number of weights and cache.
        tiles: decode in tiles; None: whole frames.
        text_encoder_on_device: whether prompts are encoded there.
        rotated: whether the readable keys are kept a second time, as attention reads them.
        overhead: what the libraries of the device take.
        vae_element: bytes of a number of the VAE; None: the same.
        overlap: whether a decode runs beside the passes.
    """
    vae_element = vae_element or element
    features, decoding = decode_bytes(sizes, element=vae_element, tiles=tiles)
    on_read = 0 if rotated else budget * sizes.tokens * sizes.width * element
    work = (decoding, pass_bytes(sizes, element=element) + on_read)
    return Estimate(
        weights=sizes.transformer * element + sizes.vae * vae_element,
        cache=cache_bytes(sizes, budget=budget, hidden=hidden, element=element, rotated=rotated),
        prompt=2 * sizes.layers * sizes.text_length * sizes.width * element,
        features=features,
        work=sum(work) if overlap else max(work),
        overhead=overhead,
        text_encoder=sizes.text_encoder * element if text_encoder_on_device else 0,
    )


def _covered(length: int, tiles: Tiles) -> int:
    """Rows or columns that tiles decode, those of overlaps twice."""
    if length <= tiles.size:
        return length
    return sum(min(tiles.size, length - start) for start in range(0, length, tiles.stride))
