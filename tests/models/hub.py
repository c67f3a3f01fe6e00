"""A local folder laid out as the hub's cache, with a toy base and toy checkpoints in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch

from tests.models.checkpoints.made import wan_names
from tests.toys import toy_pipeline, toy_transformer
from tethercache.models import BASE, HubFile, Preset, Settings
from tethercache.pipeline import CausalVideoPipeline

REVISION = "0" * 40
CONFIG = {"dim": 24, "num_heads": 2}
PRESET = Preset(
    summary="a toy",
    transformer=HubFile("somebody/toy-forcing", "checkpoints/toy.pt", 1000),
    settings=Settings(height=16, width=16, max_sequence_length=6),
    licence="none",
    source="tests",
    policy="tethercache:memory=5",
)


def toy_checkpoint(path: Path, *, seed: int = 7) -> Path:
    """A training state of a toy model, with the configuration that tells its heads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = wan_names(toy_transformer(seed=seed))
    torch.save({"generator_ema": state}, path)
    (path.parent / "config.json").write_text(json.dumps(CONFIG))
    return path


def toy_base(folder: Path, pipe: CausalVideoPipeline | None = None) -> Path:
    """A toy pipeline as another class wrote it: the base that lends its parts."""
    (pipe or toy_pipeline()).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    kept = {key: value for key, value in index.items() if isinstance(value, list | str)}
    kept |= {"_class_name": "WanPipeline", "scheduler": ["diffusers", "UniPCMultistepScheduler"]}
    kept.pop("sigmas")
    (folder / "model_index.json").write_text(json.dumps(kept))
    shutil.rmtree(folder / "transformer")  # never needed, so never fetched
    return folder


def into_cache(cache: Path, repository: str, folder: Path) -> None:
    """Put a folder into the cache as a downloaded repository: blobs, and links to them."""
    root = cache / f"models--{repository.replace('/', '--')}"
    for path in (p for p in folder.rglob("*") if p.is_file()):
        blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = root / "snapshots" / REVISION / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(REVISION)


def make_cache(folder: Path) -> Path:
    """A cache with the base and with the checkpoint of `PRESET`."""
    cache = folder / "hub"
    into_cache(cache, BASE, toy_base(folder / "base"))
    toy_checkpoint(folder / "weights/checkpoints/toy.pt")
    into_cache(cache, PRESET.transformer.repository, folder / "weights")
    return cache
