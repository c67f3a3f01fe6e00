"""Published models by name: which files they are made of and how they were trained to be used.

All are fine-tunings of Wan2.1-T2V-1.3B. Their authors publish the transformer alone; VAE, text
encoder and tokenizer are those of the base model. What follows is from the authors' repositories,
model cards and configuration files as public sources quote them. Nothing here has been downloaded
by this project's tests; sizes are in bytes, and None where no source states them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tethercache.models.settings import Settings

BASE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""Lends VAE, text encoder and tokenizer to every model that comes as a transformer alone."""

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
        note="the authors average evicted frames into the sink, which no policy here does",
    ),
}
