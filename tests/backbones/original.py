"""A stand-in with the module structure of the original code family, written from its description.

It follows `docs/reference.md`, sections 1 and 2: names of modules and parameters, the arguments of
a call, and the loop. Attention over its dictionaries of keys and values is left out, because the
adapter under test takes its place; called without the adapter it refuses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width), RMSNorm(width)


class SelfAttention(Attention):
    def forward(self, x: Tensor, seq_lens: Any, *, kv_cache: Any, current_start: int) -> Tensor:
        raise NotImplementedError("only the adapter attends here")


class CrossAttention(Attention):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        query, key, value = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context))
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.o(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, 1e-6)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, width)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))

    def forward(self, x: Tensor, time: Tensor, context: Tensor, **cache: Any) -> Tensor:
        """`x` `[B, L, C]`, `time` `[B, F, 6, C]`."""
        terms = (self.modulation[:, None] + time).unbind(2)
        spread = x.shape[1] // time.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            t.repeat_interleave(spread, dim=1) for t in terms
        )
        width = x.shape[-1:]
        modulated = functional.layer_norm(x, width, eps=1e-6) * (1 + scale1) + shift1
        x = x + gate1 * self.self_attn(modulated, None, **cache)
        x = x + self.cross_attn(self.norm3(x), context)
        modulated = functional.layer_norm(x, width, eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.ffn(modulated)


class Head(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, out)
        self.modulation = nn.Parameter(torch.zeros(1, 2, width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation[:, None] + time[:, :, None]).unbind(2)
        spread = x.shape[1] // time.shape[1]
        shift, scale = (t.repeat_interleave(spread, dim=1) for t in (shift, scale))
        return self.head(functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class Model(nn.Module):
    """The causal transformer; sizes as in the golden file's configuration."""

    patch_size = (1, 2, 2)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, self.freq_dim, self.text_len = config["dim"], config["freq_dim"], config["text_len"]
        self.patch_embedding = nn.Conv3d(config["in_dim"], width, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(config["text_dim"], width),
            nn.GELU(approximate="tanh"),
            nn.Linear(width, width),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(self.freq_dim, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            Block(width, config["num_heads"], config["ffn_dim"])
            for _ in range(config["num_layers"])
        )
        self.head = Head(width, config["out_dim"] * 4)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, **cache: Any) -> Tensor:
        """`x` `[B, C, F, h, w]`, `timestep` `[B, F]`; returns the flow like `x`."""
        _, _, frames, height, width = x.shape
        tokens = self.patch_embedding(x).flatten(2).transpose(1, 2)
        half = self.freq_dim // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
        angles = timestep.double()[..., None] * rates
        time = self.time_embedding(torch.cat((angles.cos(), angles.sin()), -1).to(x.dtype))
        modulation = self.time_projection(time).unflatten(-1, (6, -1))
        padded = functional.pad(context, (0, 0, 0, self.text_len - context.shape[1]))
        text = self.text_embedding(padded)
        caches = cache.pop("kv_cache")
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, modulation, text, kv_cache=caches[index], **cache)
        patches = self.head(tokens, time).unflatten(1, (frames, height // 2, width // 2))
        patches = patches.unflatten(-1, (1, 2, 2, -1)).squeeze(4)
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class Generator(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.model = Model(config)

    def forward(
        self,
        noisy_image_or_video: Tensor,
        conditional_dict: dict[str, Tensor],
        timestep: Tensor,
        kv_cache: Any = None,
        crossattn_cache: Any = None,
        current_start: int | None = None,
    ) -> Tensor:
        """Latents `[B, F, C, h, w]` to flow of the same shape."""
        flow = self.model(
            noisy_image_or_video.transpose(1, 2),
            timestep,
            conditional_dict["prompt_embeds"],
            kv_cache=kv_cache,
            current_start=current_start,
        )
        return flow.transpose(1, 2)


class Pipeline:
    """The few-step loop: denoise a chunk, then a pass at the context timestep."""

    def __init__(self, config: dict[str, Any], sigmas: list[float]) -> None:
        self.generator = Generator(config).eval().requires_grad_(False)
        self.num_frame_per_block = 3
        self.sigmas = sigmas
        self.denoising_step_list = torch.tensor([1000 * sigma for sigma in sigmas])
        self.kv_cache1: list[dict[str, Tensor]] | None = None
        self.allocated = 0

    def _initialize_kv_cache(self, batch_size: int) -> None:
        self.allocated += 1
        self.kv_cache1 = [
            {"k": torch.zeros(batch_size, 1000), "global_end_index": torch.zeros(1)}
            for _ in self.generator.model.blocks
        ]

    @torch.no_grad()
    def inference(
        self,
        noise: Tensor,
        prompt_embeds: Tensor,
        renoise: Tensor,
        initial_latent: Tensor | None = None,
    ) -> Tensor:
        """Noise `[B, F, C, h, w]` to latents, after the prefix `initial_latent` if there is one."""
        if self.kv_cache1 is None:
            self._initialize_kv_cache(len(noise))
        else:
            for cache in self.kv_cache1:
                cache["global_end_index"].zero_()
        batch, frames, _, height, width = noise.shape
        size, tokens = self.num_frame_per_block, height * width // 4
        condition = {"prompt_embeds": prompt_embeds}
        made: list[Tensor] = []

        def call(x: Tensor, timestep: float) -> Tensor:
            return self.generator(
                noisy_image_or_video=x,
                conditional_dict=condition,
                timestep=torch.full((batch, x.shape[1]), timestep),
                kv_cache=self.kv_cache1,
                current_start=sum(chunk.shape[1] for chunk in made) * tokens,
            )

        if initial_latent is not None:
            for chunk in initial_latent.split(size, dim=1):
                call(chunk, 0)
                made.append(chunk)
        for number in range(frames // size):
            x = noise[:, number * size : (number + 1) * size]
            for step, sigma in enumerate(self.sigmas):
                if step:
                    x = (1 - sigma) * x + sigma * renoise[None, number, step - 1, :size]
                x = x - sigma * call(x, float(self.denoising_step_list[step]))
            call(x, 0)
            made.append(x)
        return torch.cat(made, dim=1)
