"""A cache policy in your own denoising loop: any diffusers Wan transformer, ten lines.

Makes 16 s of latents (63 frames, three times the window that the model was trained on).
"""

import torch
from diffusers import FlowMatchLCMScheduler, WanTransformer3DModel

import tethercache as tc
from tethercache.models import SHIPPED

transformer = WanTransformer3DModel.from_pretrained(SHIPPED["tiny"] / "transformer")
prompt_embeds = torch.zeros(1, 32, transformer.config.text_dim)  # yours, from your text encoder
scheduler = FlowMatchLCMScheduler(shift=5.0)
scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])

video = []
with torch.no_grad(), tc.attach(transformer, tc.TetherCache(), chunk_size=3) as session:
    for _ in range(21):
        latents = torch.randn(1, transformer.config.in_channels, 3, 8, 8)
        with session.chunk(3):
            for i, (t, sigma) in enumerate(
                zip(scheduler.timesteps, scheduler.sigmas, strict=False)
            ):
                if i:
                    latents = (1 - sigma) * latents + sigma * torch.randn_like(latents)
                with session.denoising_pass():
                    flow = transformer(latents, t[None], prompt_embeds, return_dict=False)[0]
                latents = latents - sigma * flow
            with session.context_pass():
                transformer(latents, torch.zeros(1), prompt_embeds)
        video.append(latents)

memory = session.caches()[0].frame_index[0, 3:17].sort().values
print(f"{63} latent frames made; the first layer remembers frames {memory.tolist()}")
