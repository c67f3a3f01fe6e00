"""Write the shipped model as a diffusers pipeline folder.

`python -m training.export --config training/configs/export.yaml`

Takes the averaged weights of a transformer checkpoint and the VAE with its latent scale.
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKLWan, FlowMatchLCMScheduler

from training import world
from training.common import load_config
from training.train_transformer import build_models, load_average


def export(checkpoint: Path, vae_folder: Path, out: Path) -> int:
    """Write all components and `model_index.json`; returns the size in bytes."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state"]
    config = saved["config"]
    tokenizer, transformer, encoder = build_models(config)
    modules = {"transformer": transformer, "text_encoder": encoder}
    load_average(modules, saved["ema"])
    for name, module in modules.items():
        module.save_pretrained(out / name)
    tokenizer.save_pretrained(out / "tokenizer")
    AutoencoderKLWan.from_pretrained(vae_folder).save_pretrained(out / "vae")
    FlowMatchLCMScheduler(shift=5.0).save_pretrained(out / "scheduler")
    index = {
        "_class_name": "CausalVideoPipeline",
        "_diffusers_version": diffusers.__version__,
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "FlowMatchLCMScheduler"],
        "chunk_size": config["chunk_size"],
        "window": 21,
        "height": world.SIZE,
        "width": world.SIZE,
        "fps": world.FPS,
        "sigmas": [1.0, 0.75, 0.5, 0.25],
        "context_noise": 0.0,
        "max_sequence_length": tokenizer.model_max_length,
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for path in out.rglob("*"):  # readable by all, and no trace of this machine's folders
        if path.name == "config.json":
            values = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
            path.write_text(json.dumps(values, indent=2) + "\n")
        path.chmod(0o755 if path.is_dir() else 0o644)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main() -> None:
    """Export what the config names."""
    config = load_config(__doc__)
    size = export(Path(config["checkpoint"]), Path(config["vae"]), Path(config["out"]))
    print(f"{config['out']}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
