"""Does a teacher copy from its past? `python -m training.probe CHECKPOINT [VAE]`.

Held-out clips with a turning camera. A chunk is restored from noise, given a past that holds, or
does not, a frame from a turn ago that shows what comes into view. Prints the mean squared error of
the columns that come into view (the rows with the signs), relative to their variance, for a past
with that frame, one without it, and one with that of another clip. A model that copies has a first
number far below the others; one that does not has three that are alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from tethercache.evaluation import world
from training import causal, text
from training.encode import encode_scenes, latent_scale
from training.train_transformer import build_models, load_average, read_average

CHUNK, TURN = 3, world.TURN // (4 * world.TURN_SPEED)  # latent frames
START = 48  # of the chunk, in latent frames
SIGN_ROWS = 4  # upper rows of latents, of 8


def clips(vae_folder: Path, count: int, cache: Path) -> tuple[torch.Tensor, list[str]]:
    """Latents `[N, C, F, h, w]` and captions of held-out turning clips; kept in a file."""
    scenes = world.held_out_scenes(count, world.WorldConfig(turn_probability=1.0))
    if not cache.exists():
        vae = AutoencoderKLWan.from_pretrained(vae_folder).eval()
        mean, std = latent_scale(vae)
        with torch.autocast("cpu", torch.bfloat16):
            latents = [
                (encode_scenes(vae, [s], START + CHUNK)[0].float() - mean) / std for s in scenes
            ]
        torch.save(torch.stack(latents), cache)
    return torch.load(cache), [scene.caption for scene in scenes]


def pasts() -> dict[str, list[int]]:
    """Frames of a past of a given kind: the first chunk, some old ones, two recent ones."""
    shown, near = START - TURN + 3, [START - 2, START - 1]
    old = [START - 30, START - 24, START - 18]  # they look elsewhere
    return {"with": [0, 1, 2, shown, *old, *near], "without": [0, 1, 2, *old, START - 12, *near]}


@torch.no_grad()
def errors(checkpoint: Path, latents: torch.Tensor, captions: list[str]) -> dict[str, float]:
    """Relative error of what comes into view, by the kind of past."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state"]
    tokenizer, transformer, encoder = build_models(saved["config"])
    load_average({"transformer": transformer, "text_encoder": encoder}, read_average(checkpoint))
    processor = causal.install(transformer, CHUNK)
    embeds = text.encode_prompts(tokenizer, encoder, captions)
    target = latents[:, :, START : START + CHUNK]
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    known = {kind: latents[:, :, frames] for kind, frames in pasts().items()}
    known["other"] = known["with"].clone()
    known["other"][:, :, 3] = known["other"][:, :, 3].roll(1, 0)
    result = {}
    for kind, past in known.items():
        level = torch.ones(len(target), 1, CHUNK)
        clean = torch.cat([past, target], 2)
        with torch.autocast("cpu", torch.bfloat16):
            flow = causal.predict_flow(transformer, processor, clean, noise[:, None], level, embeds)
        guess = noise - flow[:, 0].float()
        new = [
            (x[:, :, i, :SIGN_ROWS, -1 - i :]) for x in (guess - target, target) for i in range(3)
        ]
        gap, size = (sum(float(x.pow(2).sum()) for x in part) for part in (new[:3], new[3:]))
        result[kind] = gap / size
    return result


def main() -> None:
    """Print the three errors."""
    checkpoint = Path(sys.argv[1])
    vae = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(".runs/vae/model")
    latents, captions = clips(vae, 16, vae.parent / "probe.pt")
    print({k: round(v, 3) for k, v in errors(checkpoint, latents, captions).items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
