"""Look at a model without a cache.

`python -m training.sample --config training/configs/sample.yaml`

Rolls out held-out scenes' captions (never-trained combinations and seeds), writes an mp4 each and
one PNG grid (a row a clip: renders of the truth are not shown, the prompt is in `scores.json`),
and prints what the oracle reads: adherence over the first five seconds (with a 95 % bootstrap
interval over the clips) and per second. Beside it stands the ceiling: the same scenes rendered, put
through the VAE and read. No transformer can be better than that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from tethercache.evaluation import world
from tethercache.evaluation.world import oracle
from tethercache.files import write_atomically
from training import causal, text
from training.common import load_config, pick_device
from training.encode import encode_scenes, latent_scale
from training.summing import interval


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    """Normalised latents `[z, F, h, w]` to frames uint8 `[4F-3, H, W, 3]`."""
    mean, std = latent_scale(vae)
    pixels = vae.decode((latents * std + mean)[None]).sample[0]
    pixels = (pixels.clamp(-1, 1) * 127.5 + 127.5).permute(1, 2, 3, 0)
    return pixels.cpu().numpy().astype(np.uint8)


def through_vae(vae: AutoencoderKLWan, scene: world.Scene, frames: int) -> np.ndarray:
    """The render of a scene, encoded and decoded: uint8 `[4F-3, H, W, 3]` of F latent frames."""
    mean, std = latent_scale(vae)
    return decode(vae, (encode_scenes(vae, [scene], frames)[0] - mean) / std)


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """H.264 at the world's frame rate from uint8 `[F, H, W, 3]`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=world.FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            packet = stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            container.mux(packet)
        container.mux(stream.encode())


def write_grid(path: Path, clips: list[np.ndarray], columns: int = 10, scale: int = 2) -> None:
    """One row a clip, `columns` frames at even distances, enlarged."""
    rows = []
    for frames in clips:
        picks = np.linspace(0, len(frames) - 1, columns).round().astype(int)
        rows.append(np.concatenate(frames[picks], 1))
    image = Image.fromarray(np.concatenate(rows, 0))
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)


def generate(
    folder: Path, prompts: list[str], num_frames: int, seed: int, device: torch.device
) -> list[np.ndarray]:
    """Frames of one clip a prompt with the model in `folder`, all in one batch."""
    load = {"tokenizer": PreTrainedTokenizerFast, "text_encoder": T5EncoderModel}
    tokenizer, encoder = (load[k].from_pretrained(folder / k) for k in load)
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer").to(device)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").to(device)
    processor = causal.install(transformer, 3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        embeds = text.encode_prompts(tokenizer, encoder.to(device), prompts)
    latents = causal.rollout(transformer, processor, embeds, num_frames, generator)[0]
    return [decode(vae, clip) for clip in latents]


def main() -> None:
    """Generate, score and write."""
    config: dict[str, Any] = load_config(__doc__)
    device, model = pick_device(config), Path(config["model"])
    out, frames = Path(config["out"]), config["latent_frames"]
    out.mkdir(parents=True, exist_ok=True)
    scenes = world.held_out_scenes(
        config["count"], world.WorldConfig(**config["world"]), config["first_seed"]
    )
    clips, size = [], config["batch"]
    for start in range(0, len(scenes), size):
        prompts = [scene.caption for scene in scenes[start : start + size]]
        clips += generate(model, prompts, frames, config["seed"] + start, device)
    for number, clip in enumerate(clips[: config["videos"]]):
        write_mp4(out / f"{number:03d}.mp4", clip)
    write_grid(out / "grid.png", clips[: config["rows"]])

    vae = AutoencoderKLWan.from_pretrained(model / "vae").to(device)
    ceiling, _ = summarise([through_vae(vae, scene, frames) for scene in scenes], scenes)
    summary, results = summarise(clips, scenes)
    summary = {"clips": len(clips), **summary, "vae_ceiling": ceiling}
    scores = json.dumps({**summary, "results": results}, indent=1) + "\n"
    write_atomically(out / "scores.json", scores)
    print(json.dumps(summary))


def summarise(
    clips: list[np.ndarray], scenes: list[world.Scene]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the oracle reads in the first five seconds: means over clips, and each clip.

    `shapes_right_of`: for each shape and motion how many shapes are right, and of how many.
    """
    five = 5 * world.FPS
    results, curves = [], []
    by_motion: dict[str, list[float]] = {motion: [] for motion in world.MOTIONS}
    shapes: dict[str, dict[str, list[int]]] = {shape: {} for shape in world.SHAPES}
    for scene, frames in zip(scenes, clips, strict=True):
        readings = oracle.read(frames)
        verdict = oracle.score(readings[:five], scene)
        curves.append(oracle.adherence_per_second(readings, scene))
        results.append({"prompt": scene.caption, **verdict.__dict__})
        for thing in scene.things:
            by_motion[thing.motion].append(oracle.speed(readings[:five], thing.colour))
            tally = shapes[thing.shape].setdefault(thing.motion, [0, 0])
            tally[0] += verdict.attributes[f"{thing.colour}: shape"]
            tally[1] += 1
    kinds: dict[str, list[bool]] = {"background": [], "colour": [], "shape": []}
    for result in results:
        for key, right in result["attributes"].items():
            kinds[key.split(": ")[-1]].append(right)
    mean, low, high = interval(np.array([r["adherence"] for r in results]))
    speeds = {k: v[~np.isnan(v)] for k, v in ((k, np.array(v)) for k, v in by_motion.items())}
    summary = {
        "adherence_5s": mean,
        "adherence_5s_interval": [low, high],
        "everything_right_5s": _share([r["everything"] for r in results]),
        "by_attribute": {k: _share(values) for k, values in kinds.items()},
        "time_of_day_right": _share([r["time"] for r in results]),
        "shapes_right_of": shapes,
        "adherence_per_second": [round(float(v), 3) for v in np.mean(curves, 0)],
        "speed_px_per_s": round(float(np.concatenate(list(speeds.values())).mean()), 2),
        "speed_by_motion": {k: round(float(v.mean()), 2) for k, v in speeds.items() if len(v)},
    }
    return summary, results


def _share(right: list[bool]) -> float:
    return round(float(np.mean(right)), 4)


if __name__ == "__main__":
    main()
