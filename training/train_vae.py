"""Train the shipped model's VAE: `python -m training.train_vae --config training/configs/vae.yaml`.

Idea: single images first (cheap, teaches shapes and colours), then clips long enough for the causal
caches to reach their steady state, first on windows around objects, at last on whole frames.
Objects cover few pixels, so the L1 loss weighs them and their surroundings more, and a loss on
image gradients keeps edges. A last stage with `freeze_encoder` polishes the decoder alone: latents
that were encoded before it stay valid, so it can run while the transformer trains. The decoder is
trained on slightly noisy latents: the transformer's will not be exact.

Axes: B clips, F frames, H rows, W columns, C = 3 colours in [-1, 1], z latent channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from diffusers import AutoencoderKLWan

from tethercache.evaluation import world
from training.common import (
    Muon,
    average_gradients,
    join_workers,
    load_config,
    pick_device,
    run_stage,
    step_generator,
)

SCALED = "scale.done"  # beside a VAE whose config has the scale of its latents


def unclamped_decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """`vae.decode` without its clamp, `[B, z, F, h, w] -> [B, C, 4F-3, H, W]`.

    (A clamp has no gradient outside its range.)
    """
    vae.clear_cache()
    x = vae.post_quant_conv(latents)
    frames = []
    for i in range(x.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(
                x[:, :, i : i + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=i == 0,
            )
        )
    vae.clear_cache()
    pixels = torch.cat(frames, 2)
    patch = vae.config.patch_size
    if patch is None:
        return pixels
    b, cpp, f, h, w = pixels.shape
    pixels = pixels.view(b, cpp // patch**2, patch, patch, f, h, w)
    return pixels.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, -1, f, h * patch, w * patch)


def sample_batch(
    seed: int, stage: dict[str, Any], config: world.WorldConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render a batch: pixels `[B, C, F, H, W]` and object masks `[B, 1, F, H, W]` in {0, 1}.

    Single images come in groups from one scene, because a scene costs more than a frame. Windows
    lie on the 8 pixel grid of the latents, around a random object.
    """
    rng = np.random.default_rng(seed)
    per_scene = stage["batch"] // stage["scenes"]
    size, pixels, masks = stage["crop"], [], []
    for _ in range(stage["scenes"]):
        scene = world.sample_scene(int(rng.integers(world.HELD_OUT)), config)
        first = rng.integers(0, 4000, per_scene)
        for start in first:
            image, mask = world.render(scene, start + np.arange(stage["frames"]))
            covered = mask[:, rng.integers(mask.shape[1])].any(0)
            rows, cols = np.nonzero(covered if covered.any() else np.ones_like(covered))
            pick = rng.integers(len(rows))
            y, x = (
                int(
                    np.clip(
                        round((p - size / 2 + rng.integers(-6, 7)) / 8) * 8, 0, world.SIZE - size
                    )
                )
                for p in (rows[pick], cols[pick])
            )
            pixels.append(image[:, y : y + size, x : x + size])
            masks.append(np.any(mask, 1)[:, y : y + size, x : x + size])
    video = torch.from_numpy(np.stack(pixels)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return video, torch.from_numpy(np.stack(masks)).float()[:, None]


def loss_terms(
    vae: AutoencoderKLWan,
    video: torch.Tensor,
    mask: torch.Tensor,
    config: dict[str, Any],
    generator: torch.Generator,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted L1 + gradient L1 + a little KL; also returns plain numbers for the log."""
    with torch.set_grad_enabled(next(vae.encoder.parameters()).requires_grad):
        posterior = vae.encode(video).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(video.device)
    latents = posterior.mean + posterior.std * noise
    spread = latents.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    noise = torch.randn(posterior.mean.shape, generator=generator).to(video.device)
    output = unclamped_decode(vae, latents + config["latent_noise"] * spread * noise)

    near = nnf.max_pool3d(mask, (1, 5, 5), stride=1, padding=(0, 2, 2))
    weight = 1 + config["object_weight"] * near
    weight = weight / weight.mean()
    error = (output - video).abs()
    gradient = sum(
        ((output - video).diff(dim=d).abs() * weight.narrow(d, 1, weight.shape[d] - 1)).mean()
        for d in (3, 4)
    )
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    loss = (error * weight).mean()
    total = loss + config["gradient_weight"] * gradient + config["kl_weight"] * kl
    mse = float((output.detach().clamp(-1, 1) - video).pow(2).mean()) / 4
    return total, {
        "loss": float(loss.detach()),
        "psnr": -10 * math.log10(mse),
        "kl": float(kl.detach()),
    }


def keep_scale(vae: AutoencoderKLWan, folder: Path) -> None:
    """Take over the scale of the latents, which `encode` measured, from a saved VAE.

    Of another encoder the latents have another scale, which `encode` measures again.
    """
    if not (folder / SCALED).exists():
        return
    saved = AutoencoderKLWan.from_pretrained(folder)
    weights = vae.state_dict()
    if all(
        key in weights and torch.equal(tensor, weights[key].cpu())
        for key, tensor in saved.state_dict().items()
        if key.startswith(("encoder", "quant_conv"))
    ):
        scale = {key: saved.config[key] for key in ("latents_mean", "latents_std")}
        vae.register_to_config(**scale)
    else:
        (folder / SCALED).unlink()


def main() -> None:
    """Run every stage that is not finished."""
    config = load_config(__doc__)
    device = pick_device(config)
    worker = join_workers()
    torch.manual_seed(config["seed"])
    vae = AutoencoderKLWan(**config["model"]).to(device)
    folder = Path(config["out"])
    world_config = world.WorldConfig(**config["world"])
    for number, stage in enumerate(config["stages"]):
        frozen = bool(stage.get("freeze_encoder"))
        vae.encoder.requires_grad_(not frozen)
        vae.quant_conv.requires_grad_(not frozen)
        trained = [p for p in vae.parameters() if p.requires_grad]
        kernels = [p for p in trained if p.ndim > 1 and min(p.shape[:2]) > 1]
        others = [p for p in trained if p.ndim == 1 or min(p.shape[:2]) == 1]
        optimizers = [Muon(kernels, lr=1e-3), torch.optim.AdamW(others, lr=1e-3, weight_decay=0.0)]

        def step(
            index: int,
            number: int = number,
            stage: Any = stage,
            opts: Any = optimizers,
            trained: list[torch.nn.Parameter] = trained,
        ) -> Any:
            rate = stage["learning_rate"] * min(1, (index + 1) / 100)
            rate *= 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * index / stage["steps"]))
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = rate
            generator = step_generator(config["seed"] + 97 * number, index)
            seed = int(torch.randint(2**62, (1,), generator=generator))
            video, mask = (x.to(device) for x in sample_batch(seed, stage, world_config))
            loss, numbers = loss_terms(vae, video, mask, config, generator)
            vae.zero_grad()
            loss.backward()
            average_gradients(trained)
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            for opt in opts:
                opt.step()
            return numbers

        def state(opts: Any = optimizers) -> dict[str, Any]:
            return {"vae": vae.state_dict(), "optimizers": [opt.state_dict() for opt in opts]}

        def restore(saved: dict[str, Any], opts: Any = optimizers) -> None:
            vae.load_state_dict(saved["vae"])
            for opt, values in zip(opts, saved["optimizers"], strict=True):
                opt.load_state_dict(values)

        run_stage(
            steps=stage["steps"],
            state=state,
            restore=restore,
            step=step,
            folder=folder,
            name=f"{number}-{stage['name']}",
            columns=["loss", "psnr", "kl"],
            log_every=config["log_every"],
        )
    if worker == 0:
        keep_scale(vae, folder / "model")
        vae.save_pretrained(folder / "model")


if __name__ == "__main__":
    main()
