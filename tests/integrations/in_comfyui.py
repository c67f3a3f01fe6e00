"""Runs in the Python of a ComfyUI: its own causal Wan and sampler, with and without the node.

    python in_comfyui.py CHECKOUT MODEL.safetensors GOLDEN

The model has the weights of the golden file. The last line is a JSON object: the largest absolute
differences, of latents in float32, and whether anything has stayed in the model.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

CHECKOUT, MODEL, GOLDEN = map(Path, sys.argv[1:4])
sys.argv = sys.argv[:1]
sys.path.append(str(CHECKOUT))  # it has a package `tests` too

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.wan.model import sinusoidal_embedding_1d  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

from integrations.comfyui.policy import TetherCachePolicy  # noqa: E402
from tests.golden.runner import load_transformer  # noqa: E402
from tethercache.backbones import attach  # noqa: E402

SEED = 7
SMALL = "tethercache:sink=1,memory=2,recent=3"
SIGMAS = torch.tensor([1.0, 0.9375, 5 / 6, 0.625, 0.0])


def main() -> None:
    stored = load_file(GOLDEN / "inputs.safetensors")
    noise, text = stored["noise"].transpose(1, 2)[:, :, :12], stored["prompt_embeds"]
    model = comfy.sd.load_diffusion_model(str(MODEL))
    short = noise[:, :, :7]
    plain = sample(model, short, text)
    before = attributes(model)  # ComfyUI adds its own when it loads a model
    window = sample(patched(model, "fifo:window=21,positions=absolute"), short, text)
    small = sample(patched(model, SMALL), noise, text)
    refusal = ""
    try:
        sample(patched(model, SMALL), noise, text, sampler="euler")
    except ValueError as error:
        refusal = str(error)
    print(
        json.dumps(
            {
                "within": difference(window, plain),
                "beyond": difference(small, ours(noise, text)),
                "policy matters": difference(small[:, :, :12], sample(model, noise, text)),
                "unpatched again": difference(sample(model, short, text), plain),
                "left": [name for name in attributes(model) if name not in before],
                "refusal": refusal,
                "model": type(model.model.diffusion_model).__name__,
            }
        )
    )


def attributes(model: Any) -> list[str]:
    modules = model.model.diffusion_model.named_modules()
    return [f"{name}.{attribute}" for name, module in modules for attribute in vars(module)]


def patched(model: Any, policy: str) -> Any:
    return TetherCachePolicy().patch(model, policy)[0]


@torch.inference_mode()
def sample(model: Any, noise: Tensor, text: Tensor, sampler: str = "ar_video") -> Tensor:
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[text, {}]]})
    options = {"num_frame_per_block": 3} if sampler == "ar_video" else {}
    latents = guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.ksampler(sampler, options),
        SIGMAS,
        disable_pbar=True,
        seed=SEED,
    )
    return model.model.process_latent_in(latents).clone()


@torch.no_grad()
def ours(noise: Tensor, text: Tensor) -> Tensor:
    """The same video by our own loop, on diffusers' transformer with the same weights.

    The sinusoid of the timestep is ComfyUI's; in float32 the two differ by more than all the rest.
    """
    transformer, made = load_transformer(GOLDEN), []
    transformer.condition_embedder.timesteps_proj.forward = partial(
        sinusoidal_embedding_1d, transformer.config.freq_dim
    )
    with attach(transformer, SMALL, chunk_size=3) as session:
        for number, x in enumerate(noise.split(3, dim=2)):
            with session.chunk(3, len(SIGMAS) - 1):
                for step, sigma in enumerate(SIGMAS[:-1]):
                    with session.denoising_pass():
                        times = torch.full((len(x),), 1000 * float(sigma))
                        x = x - sigma * transformer(x, times, text).sample
                    if (lower := SIGMAS[step + 1]) > 0:
                        torch.manual_seed(SEED + 1000 * number + step)
                        x = (1 - lower) * x + lower * torch.randn_like(x)
                with session.context_pass():
                    transformer(x, torch.zeros(len(x)), text)
            made.append(x)
    return torch.cat(made, dim=2)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


if __name__ == "__main__":
    main()
