"""Published models by name: which files they are made of and how they were trained to be used.

All are fine-tunings of Wan. Their authors publish the transformer alone; VAE, text encoder and
tokenizer are those of the base model. What follows is from the authors' repositories,
model cards and configuration files as public sources quote them. Nothing here has been downloaded
by this project's tests; sizes are in bytes, and None where no source states them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tethercache.models.settings import Settings

BASE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""Lends VAE, text encoder and tokenizer to every model that comes as a transformer alone."""

BASES = {16: BASE, 48: "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}
"""The base by the channels of the model's latents; Wan2.1-14B has the VAE of 1.3B."""

BASE_PARTS = ("vae", "text_encoder", "tokenizer")

PREFERENCE = ("generator_ema", "generator", "model", "state_dict")
"""Which state dict of a training state is meant, first one present; EMA is what papers report."""

CHECKPOINTS = (".safetensors", ".sft", ".gguf", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files that may be a transformer."""

SHIFT = 5.0
"""Flow shift of the Self-Forcing family, for models that come without a scheduler of theirs."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the hub.

    Attributes:
        repository: `owner/name`.
        path: the file in it.
        size: bytes, or None if not known.
    """

    repository: str
    path: str
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}"


@dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
        summary: one line.
        transformer: the checkpoint.
        settings: how it was trained to be used; its window bounds what a policy may show it.
        licence: of the weights, as their distributor states it.
        source: paper or repository.
        lora: adapter that is part of the model.
        base: repository of the model that lends it VAE, text encoder and tokenizer.
        size: of the transformer, as the authors of Wan call it.
        shift: flow shift of the noise levels.
        prefer: which state dict of the checkpoint is meant, the best first.
        policy: the policy that `generate` takes by default; it fits the window.
        note: what a user has to know, and what is not certain.
    """

    summary: str
    transformer: HubFile
    settings: Settings
    licence: str
    source: str
    lora: HubFile | None = None
    base: str = BASE
    size: str = "1.3B"
    shift: float = SHIFT
    prefer: tuple[str, ...] = ("generator_ema", "generator")
    policy: str = "tethercache"
    note: str = ""

    @property
    def files(self) -> list[HubFile]:
        """Its own files."""
        return [file for file in (self.transformer, self.lora) if file is not None]


_SELF_FORCING = "gdhe17/Self-Forcing"
_CAUSAL_FORCING = "zhuhz22/Causal-Forcing"
_LONGLIVE = "Efficient-Large-Model/LongLive-1.3B"
_PLUS_PLUS = "causal-forcing++/framewise-{}step.pt"
_FOUR_STEPS = Settings.sigmas

PRESETS: Mapping[str, Preset] = {
    "self-forcing": Preset(
        summary="Self-Forcing, distribution matching (DMD), chunks of 3",
        transformer=HubFile(_SELF_FORCING, "checkpoints/self_forcing_dmd.pt", 5_676_252_553),
        settings=Settings(),
        licence="CC BY-NC-SA 4.0",
        source="arXiv 2506.08009",
    ),
    "self-forcing-sid": Preset(
        summary="Self-Forcing, score identity distillation (SiD), chunks of 3",
        transformer=HubFile(_SELF_FORCING, "checkpoints/self_forcing_sid.pt"),
        settings=Settings(),
        licence="CC BY-NC-SA 4.0",
        source="arXiv 2506.08009",
    ),
    "causal-forcing": Preset(
        summary="Causal Forcing, chunks of 3: steadier",
        transformer=HubFile(_CAUSAL_FORCING, "chunkwise/causal_forcing.pt"),
        settings=Settings(),
        licence="Apache-2.0",
        source="arXiv 2602.02214",
        prefer=("generator", "generator_ema"),
    ),
    "causal-forcing-framewise": Preset(
        summary="Causal Forcing, one latent frame at a time: more motion",
        transformer=HubFile(_CAUSAL_FORCING, "framewise/causal_forcing.pt"),
        settings=Settings(chunk_size=1),
        licence="Apache-2.0",
        source="arXiv 2602.02214",
    ),
    "causal-forcing-2step": Preset(
        summary="Causal Forcing++, one latent frame at a time in 2 steps, the first in 4",
        transformer=HubFile(_CAUSAL_FORCING, _PLUS_PLUS.format(2)),
        settings=Settings(chunk_size=1, sigmas=(1.0, 0.5), first_sigmas=_FOUR_STEPS),
        licence="Apache-2.0",
        source="arXiv 2605.15141",
    ),
    "causal-forcing-1step": Preset(
        summary="Causal Forcing++, one latent frame at a time in 1 step, the first in 4: fastest",
        transformer=HubFile(_CAUSAL_FORCING, _PLUS_PLUS.format(1)),
        settings=Settings(chunk_size=1, sigmas=(1.0,), first_sigmas=_FOUR_STEPS),
        licence="Apache-2.0",
        source="arXiv 2605.15141",
    ),
    "causal-forcing-long": Preset(
        summary="Causal Forcing, chunks of 3, trained for videos of a minute",
        transformer=HubFile(_CAUSAL_FORCING, "chunkwise/longvideo.pt"),
        settings=Settings(),
        licence="Apache-2.0",
        source="arXiv 2602.02214",
        note="the authors run it with Rolling Forcing, which denoises several chunks jointly; here "
        "each chunk is clean before the next one begins",
    ),
    "longlive": Preset(
        summary="LongLive 1.3B, base and LoRA, trained with a window of 12",
        transformer=HubFile(_LONGLIVE, "models/longlive_base.pt", 5_676_334_208),
        lora=HubFile(_LONGLIVE, "models/lora.pt", 2_800_056_690),
        settings=Settings(window=12),
        licence="CC BY-NC-SA 4.0",
        source="arXiv 2509.22622",
        prefer=("generator", "generator_ema"),
        policy="tethercache:memory=5",
        note="the authors run it with `sink:window=12,positions=absolute`; its code repository "
        "announced Apache-2.0 later than its model card was edited",
    ),
    "reward-forcing": Preset(
        summary="Reward Forcing, trained with a window of 9",
        transformer=HubFile("JaydenLu666/Reward-Forcing-T2V-1.3B", "rewardforcing.pt"),
        settings=Settings(window=9),
        licence="not stated on the model card",
        source="arXiv 2512.04678",
        policy="tethercache:memory=2",
        note="the authors average evicted frames into the sink, as `ema-sink` does",
    ),
    "krea-realtime": Preset(
        summary="Krea Realtime, Self-Forcing of Wan2.1-T2V-14B, chunks of 3",
        transformer=HubFile("krea/krea-realtime-video", "krea-realtime-video-14b.safetensors"),
        settings=Settings(),
        licence="Apache-2.0",
        source="https://github.com/krea-ai/realtime-video",
        size="14B",
        note="28.6 GB; the authors show it the newest 3 frames and compute their keys and values "
        "again for each chunk, which is not done here; their code is CC BY-NC-SA 4.0",
    ),
    "longlive-2": Preset(
        summary="LongLive 2.0 of Wan2.2-TI2V-5B, chunks of 8, 1280x704 at 24 fps",
        transformer=HubFile("Efficient-Large-Model/LongLive-2.0-5B", "model_bf16.pt"),
        settings=Settings(chunk_size=8, window=32, height=704, width=1280, fps=24),
        licence="NVIDIA Open Model License",
        source="arXiv 2605.18739",
        base=BASES[48],
        size="5B",
        prefer=("generator", "generator_ema"),
        policy="tethercache:sink=8,memory=16,recent=8",
        note="the authors take their 4 steps with UniPC and shift the positions of a new shot; "
        "here noise is added again between steps, as in its distillation",
    ),
}
