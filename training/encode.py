"""Encode clips to latents once: `python -m training.encode --config training/configs/encode.yaml`.

Writes shards `{latents: float16 [N, z, F, h, w], seeds: [N]}`, normalised per channel. The first
shard of all measures `latents_mean` and `latents_std` and stores them in the VAE's config, as Wan
has them. Shards that exist are skipped, so it can be stopped, restarted, and run beside the
training.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from tethercache.evaluation import world
from training.common import load_config, pick_device, save_atomic
from training.train_vae import SCALED

BATCH = 16


@torch.no_grad()
def encode_scenes(vae: AutoencoderKLWan, scenes: list[world.Scene], frames: int) -> torch.Tensor:
    """Unnormalised latents `[N, z, F, h, w]`, `frames` latent frames of each scene's render."""
    pixels = np.stack([world.render(scene, 4 * frames - 3)[0] for scene in scenes])
    video = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).to(vae.device).float() / 127.5 - 1
    return vae.encode(video).latent_dist.mode().float()


def latent_scale(vae: AutoencoderKLWan) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel mean and standard deviation of the VAE's config, `[z, 1, 1, 1]` each."""
    mean = torch.tensor(vae.config.latents_mean, device=vae.device).view(-1, 1, 1, 1)
    return mean, torch.tensor(vae.config.latents_std, device=vae.device).view(-1, 1, 1, 1)


def measure_scale(folder: Path, vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """Store the statistics of `[N, z, F, h, w]` in the VAE's config."""
    mean = latents.float().mean((0, 2, 3, 4))
    std = latents.float().std((0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in mean.tolist()],
        latents_std=[round(v, 5) for v in std.tolist()],
    )
    vae.save_pretrained(folder)


def main() -> None:
    """Write this worker's shards: numbers worker, worker + workers, ..."""
    config = load_config(__doc__)
    device = pick_device(config)
    folder, vae_folder = Path(config["out"]), Path(config["vae"])
    scaled = vae_folder / SCALED
    if not scaled.exists() and any(folder.glob("shard_*.pt")):
        raise SystemExit(f"{folder} has latents of another encoder than {vae_folder}: delete them")
    while config["worker"] and not scaled.exists():
        time.sleep(1)
    vae = AutoencoderKLWan.from_pretrained(vae_folder).to(device).eval()
    world_config = world.WorldConfig(**config["world"])
    for shard in range(config["worker"], config["shards"], config["workers"]):
        path = folder / f"shard_{shard:04d}.pt"
        if path.exists():
            continue
        start = time.monotonic()
        seeds: list[int] = []
        scenes: list[world.Scene] = []
        seed = config["first_seed"] + shard * config["per_shard"] * 2
        while len(seeds) < config["per_shard"]:
            scene = world.sample_scene(seed, world_config)
            if not world.held_out(scene):
                seeds.append(seed)
                scenes.append(scene)
            seed += 1
        assert seed < world.HELD_OUT
        frames = config["latent_frames"]
        batches = [scenes[i : i + BATCH] for i in range(0, len(scenes), BATCH)]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.get("autocast", False)):
            latents = torch.cat([encode_scenes(vae, part, frames).cpu() for part in batches])
        if not scaled.exists():
            measure_scale(vae_folder, vae, latents)
            scaled.touch()
        mean, std = (x.cpu() for x in latent_scale(vae))
        state = {
            "latents": ((latents - mean) / std).half(),
            "seeds": seeds,
            "world": config["world"],
        }
        save_atomic(state, path)
        print(f"{path.name}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
