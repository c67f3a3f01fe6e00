"""Write the shipped model as a diffusers pipeline folder.

`python -m training.export --config training/configs/export.yaml`

Takes the averaged weights of a transformer checkpoint and the VAE with its latent scale.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchLCMScheduler

from tethercache.evaluation import world
from tethercache.models import Settings
from tethercache.models.folders import write_index
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
    settings = Settings(
        chunk_size=config["chunk_size"],
        height=world.SIZE,
        width=world.SIZE,
        fps=world.FPS,
        max_sequence_length=tokenizer.model_max_length,
    )
    write_index(
        out,
        settings,
        transformer="WanTransformer3DModel",
        vae="AutoencoderKLWan",
        scheduler="FlowMatchLCMScheduler",
        text_encoder="T5EncoderModel",
        tokenizer="PreTrainedTokenizerFast",
    )
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
