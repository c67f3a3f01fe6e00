"""What is timed: models of several sizes, from one block to the whole.

Axes: latents `[B, C, F, h, w]`; a token is a patch of 2 x 2 latent pixels. To list the cases takes
neither torch nor diffusers; to build a model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from tethercache.models import Settings

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from torch import Tensor

    from tethercache.rollout import Steps

MIN_CHUNKS = 7
"""Timed chunks below which a median says little."""

PROMPT = "a red ball rolling over grass"


@dataclass(frozen=True)
class Model:
    """A model that is ready to make chunks.

    Attributes:
        transformer: with its weights.
        prompt_embeds: `[1, P, C_text]`.
        latent_size: rows and columns of a latent frame.
        settings: chunk size, noise levels and timestep of the context pass.
        shift: flow shift of the noise levels.
        vae: decodes what is made; None: nothing is decoded.
    """

    transformer: WanTransformer3DModel
    prompt_embeds: Tensor
    latent_size: tuple[int, int]
    settings: Settings = field(default_factory=Settings)
    shift: float = 5.0
    vae: AutoencoderKLWan | None = None

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a latent frame."""
        return prod(self.latent_size) // int(prod(self.transformer.config.patch_size))

    @property
    def pixel_frames(self) -> int:
        """Frames of the video that a steady chunk becomes."""
        return self.settings.chunk_size * (
            4 if self.vae is None else self.vae.config.scale_factor_temporal
        )

    @property
    def activations(self) -> int:
        """Numbers in the activations of a chunk, between two layers."""
        config = self.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        return int(self.settings.chunk_size * self.tokens_per_frame * width)

    def steps(self, *, first: bool = False) -> Steps:
        """The noise levels of the denoising passes, of the `first` chunk or of the others."""
        from diffusers import FlowMatchLCMScheduler

        from tethercache.rollout import Steps

        scheduler, sigmas = FlowMatchLCMScheduler(shift=self.shift), self.settings.sigmas
        if first and self.settings.first_sigmas is not None:
            sigmas = self.settings.first_sigmas
        return Steps.from_scheduler(scheduler, list(sigmas))

    def tensors(self) -> list[Tensor]:
        """All weights and buffers."""
        modules = [self.transformer] + ([] if self.vae is None else [self.vae])
        return [t for m in modules for t in (*m.parameters(), *m.buffers())]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark's list.

    Attributes:
        summary: what it is.
        build: makes the model on a device, in a number format.
        limit: the most that a policy's chunk may cost, in chunks of the sink window.
        profiled: chunks in which it is found out where the time goes, apart from those timed.
        full_size: whether a block has its real dimensions, to which the goal for memory belongs.
        dtype: number format, where none is asked for; None: float32 on a CPU, else bfloat16.
    """

    summary: str
    build: Callable[[torch.device, torch.dtype], Model]
    limit: float = 1.05
    profiled: int = 3
    full_size: bool = False
    dtype: str | None = None


def random_wan(
    *,
    layers: int,
    heads: int,
    ffn: int,
    grid: tuple[int, int],
    head_dim: int = 128,
    text: tuple[int, int] = (512, 4096),
    decodes: bool = False,
) -> Callable[[torch.device, torch.dtype], Model]:
    """A Wan transformer with random weights, which compute as long as trained ones.

    Args:
        layers: transformer blocks.
        heads: attention heads.
        ffn: channels of the feed-forward layers.
        grid: rows and columns of tokens in a latent frame.
        head_dim: channels of a head.
        text: tokens of a prompt, and channels of each.
        decodes: with the VAE of Wan, random too.
    """

    def build(device: torch.device, dtype: torch.dtype) -> Model:
        import torch
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.device(device):
            torch.manual_seed(0)
            transformer = WanTransformer3DModel(
                num_attention_heads=heads,
                attention_head_dim=head_dim,
                ffn_dim=ffn,
                num_layers=layers,
                text_dim=text[1],
            )
            prompt = torch.randn(1, *text)
            vae = AutoencoderKLWan() if decodes else None
        return Model(
            transformer=_cast(transformer, dtype),
            prompt_embeds=prompt.to(dtype),
            latent_size=(2 * grid[0], 2 * grid[1]),
            vae=None if vae is None else vae.to(dtype).eval().requires_grad_(False),
        )

    return build


def _cast(transformer: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """As weights are loaded: norms, modulations and the time embedding stay in float32."""
    for name, tensor in transformer.named_parameters():
        if not set(transformer._keep_in_fp32_modules) & set(name.split(".")):
            tensor.data = tensor.data.to(dtype)
    return transformer.eval().requires_grad_(False)


def shipped(name: str) -> Callable[[torch.device, torch.dtype], Model]:
    """A model that comes with the package, decode included."""

    def build(device: torch.device, dtype: torch.dtype) -> Model:
        from tethercache.pipeline import CausalVideoPipeline

        pipe: Any = CausalVideoPipeline.from_pretrained(name, dtype=dtype).to(device)
        scale = pipe.vae.config.scale_factor_spatial
        return Model(
            transformer=pipe.transformer,
            prompt_embeds=pipe.encode_prompt([PROMPT]),
            latent_size=(pipe.settings.height // scale, pipe.settings.width // scale),
            settings=pipe.settings,
            shift=pipe.scheduler.config.shift,
            vae=pipe.vae,
        )

    return build


CASES: Mapping[str, Case] = {
    "small": Case(
        "2 blocks of 6 heads x 128, 390 tokens a frame (240x416)",
        random_wan(layers=2, heads=6, ffn=4480, grid=(15, 26)),
    ),
    "block": Case(
        "one block at real dimensions: 12 heads x 128, 1560 tokens a frame (480x832)",
        random_wan(layers=1, heads=12, ffn=8960, grid=(30, 52)),
        profiled=1,
        full_size=True,
    ),
    "tiny": Case("the whole shipped model, with decode", shipped("tiny"), limit=1.10),
    "1.3b": Case(
        "all 30 blocks of Wan 1.3B at 480x832 and its VAE, random weights, for a GPU",
        random_wan(layers=30, heads=12, ffn=8960, grid=(30, 52), decodes=True),
        limit=1.02,
        profiled=2,
        full_size=True,
        dtype="bfloat16",
    ),
}
"""The cases by name; the last is for a GPU."""


def default_cases(device: torch.device) -> list[str]:
    """What is timed on a device if nothing is named."""
    return [name for name in CASES if name != "1.3b" or device.type == "cuda"]
