"""Stand-ins with the structure of the original code family, written from its description.

They follow `docs/reference.md`, sections 1 and 2: names of modules and parameters, the arguments of
a call, the loop, and the dictionaries of keys and values, as far as a window goes in which nothing
is dropped. The families differ in what a self-attention returns, in what belongs to a cache, and in
the loop around it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOM = 21
"""Latent frames that a cache has room for."""


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


def rotated(x: Tensor, first: int, frames: int, rows: int, columns: int) -> Tensor:
    """`x` `[B, L, H, D]`, each pair of channels turned by the place of its token."""
    half = x.shape[-1] // 2
    bands = [half - 2 * (half // 3), half // 3, half // 3]
    place = torch.cartesian_prod(
        *(torch.arange(n, dtype=torch.float64) for n in (frames, rows, columns))
    )
    place[:, 0] += first
    angles = torch.cat(
        [
            place[:, axis, None] * 10000.0 ** -(torch.arange(n, dtype=torch.float64) / n)
            for axis, n in enumerate(bands)
        ],
        dim=1,
    )
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]
    return torch.view_as_real(turned).flatten(3).type_as(x)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `[B, L, H, D]` to `[B, n, H, D]`, as `[B, L, H * D]`."""
    parts = (x.transpose(1, 2) for x in (query, key, value))
    return functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


class SelfAttention(Attention):
    """Writes the chunk into its dictionary and sees all that is in there."""

    def forward(
        self,
        x: Tensor,
        seq_lens: Any,
        grid_sizes: tuple[int, int, int],
        kv_cache: Any = None,
        current_start: int = 0,
    ) -> Any:
        query, key, value = (
            t.unflatten(-1, (self.num_heads, -1))
            for t in (self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x))
        )
        _, rows, columns = grid_sizes
        place = (current_start // (rows * columns), *grid_sizes)
        query, key = rotated(query, *place), rotated(key, *place)
        end = current_start + x.shape[1]
        return self.cached(query, key, value, kv_cache, slice(current_start, end))

    def cached(self, query: Tensor, key: Tensor, value: Tensor, cache: Any, span: slice) -> Any:
        cache["k"][:, span], cache["v"][:, span] = key, value
        cache["global_end_index"].fill_(span.stop)
        return self.o(attended(query, cache["k"][:, : span.stop], cache["v"][:, : span.stop]))


class SelfAttentionWithUpdates(SelfAttention):
    """Of LongLive and its children: says what is to be written, and leaves that to the model."""

    def cached(self, query: Tensor, key: Tensor, value: Tensor, cache: Any, span: slice) -> Any:
        seen = (torch.cat((cache[n][:, : span.start], x), 1) for n, x in (("k", key), ("v", value)))
        update = {"action": "direct_insert", "span": span, "new_k": key, "new_v": value}
        return self.o(attended(query, *seen)), (span.stop, span.stop, update)


class CrossAttention(Attention):
    def forward(self, x: Tensor, context: Tensor, crossattn_cache: Any = None) -> Tensor:
        query = self.norm_q(self.q(x)).unflatten(-1, (self.num_heads, -1))
        cache = {"is_init": False} if crossattn_cache is None else crossattn_cache
        if not cache["is_init"]:
            key, value = self.norm_k(self.k(context)), self.v(context)
            cache |= {"k": key, "v": value, "is_init": True}
        seen = (cache[name].unflatten(-1, (self.num_heads, -1)) for name in ("k", "v"))
        return self.o(attended(query, *seen))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int, updates: bool = False) -> None:
        super().__init__()
        self.self_attn = (SelfAttentionWithUpdates if updates else SelfAttention)(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width, 1e-6)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, width)
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, *, crossattn_cache: Any, **cache: Any
    ) -> Any:
        """`x` `[B, L, C]`, `time` `[B, F, 6, C]`."""
        terms = (self.modulation[:, None] + time).unbind(2)
        spread = x.shape[1] // time.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            t.repeat_interleave(spread, dim=1) for t in terms
        )
        width = x.shape[-1:]
        modulated = functional.layer_norm(x, width, eps=1e-6) * (1 + scale1) + shift1
        result = self.self_attn(modulated, None, **cache)
        updates = isinstance(self.self_attn, SelfAttentionWithUpdates)
        if updates:
            result, update = result
        x = x + gate1 * result
        x = x + self.cross_attn(self.norm3(x), context, crossattn_cache)
        modulated = functional.layer_norm(x, width, eps=1e-6) * (1 + scale2) + shift2
        x = x + gate2 * self.ffn(modulated)
        return (x, update) if updates else x


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
    sparing = False  # whether this call leaves out all blocks

    def __init__(self, config: dict[str, Any], updates: bool = False) -> None:
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
            Block(width, config["num_heads"], config["ffn_dim"], updates)
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
        cache["grid_sizes"] = (frames, height // 2, width // 2)
        own, of_text = cache.pop("kv_cache"), cache.pop("crossattn_cache")
        updates = []
        for index, block in enumerate([] if self.sparing else self.blocks):
            text_cache = of_text and of_text[index]
            caches = {"kv_cache": own[index], "crossattn_cache": text_cache}
            tokens = block(tokens, modulation, text, **caches, **cache)
            if isinstance(tokens, tuple):
                tokens, update = tokens
                updates.append((index, update))
        if updates:
            self._apply_cache_updates(own, updates)
        patches = self.head(tokens, time).unflatten(1, (frames, height // 2, width // 2))
        patches = patches.unflatten(-1, (1, 2, 2, -1)).squeeze(4)
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _apply_cache_updates(self, kv_cache: Any, updates: list[Any]) -> None:
        for index, (end, _, update) in updates:
            kv_cache[index]["k"][:, update["span"]] = update["new_k"]
            kv_cache[index]["v"][:, update["span"]] = update["new_v"]
            kv_cache[index]["global_end_index"].fill_(end)


class Generator(nn.Module):
    def __init__(self, config: dict[str, Any], updates: bool = False) -> None:
        super().__init__()
        self.model = Model(config, updates)

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
            crossattn_cache=crossattn_cache,
            current_start=current_start,
        )
        return flow.transpose(1, 2)


class Loop:
    """What all pipelines have: a generator and its caches, made when they are first needed."""

    names: tuple[str, ...] = ("kv_cache1",)

    def __init__(self, config: dict[str, Any], *, updates: bool = False) -> None:
        self.generator = Generator(config, updates).eval().requires_grad_(False)
        self.num_frame_per_block = 3
        self.frame_seq_length = 20
        self.allocated = 0
        for name in self.names:
            setattr(self, name, None)

    def _initialize_kv_cache(self, batch_size: int, dtype: Any, device: Any) -> None:
        self.allocated += 1
        attention = self.generator.model.blocks[0].self_attn
        sizes = (ROOM * self.frame_seq_length, attention.num_heads, attention.head_dim)
        for name in self.names:
            caches = [
                {
                    "k": torch.zeros(batch_size, *sizes, dtype=dtype, device=device),
                    "v": torch.zeros(batch_size, *sizes, dtype=dtype, device=device),
                    "global_end_index": torch.zeros(1, dtype=torch.long),
                }
                for _ in self.generator.model.blocks
            ]
            setattr(self, name, caches)

    def _initialize_crossattn_cache(self) -> None:
        for name in self.names:
            caches = [{"is_init": False} for _ in self.generator.model.blocks]
            setattr(self, self.of_text(name), caches)

    def of_text(self, name: str) -> str:
        return name.replace("kv_cache1", "crossattn_cache").replace("kv_cache_", "crossattn_cache_")

    def begin(self, noise: Tensor) -> None:
        if getattr(self, self.names[0]) is None:
            self._initialize_kv_cache(len(noise), noise.dtype, noise.device)
            self._initialize_crossattn_cache()
            return
        for name in self.names:
            for cache in getattr(self, self.of_text(name)):
                cache["is_init"] = False
            for cache in getattr(self, name):
                cache["global_end_index"] = torch.zeros(1, dtype=torch.long)

    def call(
        self, x: Tensor, prompt_embeds: Any, timestep: float, frame: int, name: str = "kv_cache1"
    ) -> Tensor:
        return self.generator(
            noisy_image_or_video=x,
            conditional_dict={"prompt_embeds": prompt_embeds},
            timestep=torch.full(x.shape[:2], float(timestep)),
            kv_cache=getattr(self, name),
            crossattn_cache=getattr(self, self.of_text(name)),
            current_start=frame * self.frame_seq_length,
        )


class Pipeline(Loop):
    """The few-step loop: denoise a chunk, then a pass at the context timestep."""

    def __init__(
        self,
        config: dict[str, Any],
        sigmas: list[float],
        *,
        first_sigmas: list[float] | None = None,
        context_noise: float = 0,
        updates: bool = False,
    ) -> None:
        super().__init__(config, updates=updates)
        self.sigmas, self.first_sigmas, self.context_noise = sigmas, first_sigmas, context_noise
        self.denoising_step_list = torch.tensor([1000 * sigma for sigma in sigmas])
        if first_sigmas is not None:
            steps = [1000 * sigma for sigma in first_sigmas]
            self.denoising_step_list_first_chunk = torch.tensor(steps)

    def before_chunk(self, number: int, made: list[Tensor], prompt_embeds: Tensor) -> Tensor:
        """The prompt of chunk `number`."""
        return prompt_embeds

    @torch.no_grad()
    def inference(
        self,
        noise: Tensor,
        prompt_embeds: Any,
        renoise: Tensor,
        initial_latent: Tensor | None = None,
    ) -> Tensor:
        """Noise `[B, F, C, h, w]` to latents, after the prefix `initial_latent` if there is one."""
        self.begin(noise)
        size = self.num_frame_per_block
        made: list[Tensor] = []
        if initial_latent is not None:
            for chunk in initial_latent.split(size, dim=1):
                embeds = self.before_chunk(0, made, prompt_embeds)
                self.call(chunk, embeds, 0, len(made) * size)
                made.append(chunk)
        for number in range(noise.shape[1] // size):
            embeds = self.before_chunk(number, made, prompt_embeds)
            x, frame = noise[:, number * size : (number + 1) * size], len(made) * size
            first = self.first_sigmas is not None and number == 0
            for step, sigma in enumerate(self.first_sigmas if first else self.sigmas):
                if step:
                    x = (1 - sigma) * x + sigma * renoise[None, number, (step - 1) % 3, :size]
                x = x - sigma * self.call(x, embeds, 1000 * sigma, frame)
            self.call(x, embeds, self.context_noise, frame)
            made.append(x)
        self.end()
        return torch.cat(made, dim=1)

    def end(self) -> None:
        """What happens before the latents are decoded."""


class RollingSink(Pipeline):
    """Frees its caches before it decodes."""

    def end(self) -> None:
        del self.kv_cache1, self.crossattn_cache


class InfinityRope(Pipeline):
    """Takes one prompt a chunk, and moves keys about where the prompt changes."""

    def before_chunk(self, number: int, made: list[Tensor], prompt_embeds: Any) -> Tensor:
        for cache, of_text in zip(self.kv_cache1, self.crossattn_cache, strict=True):
            cache["scene_cut"] = False
            if number and prompt_embeds[number] is not prompt_embeds[number - 1]:
                of_text["is_init"] = False
                kept = 2 * self.frame_seq_length
                first = self.frame_seq_length
                cache["k"][:, first : first + kept] = cache["k"][:, -kept:]
                cache["v"][:, first : first + kept] = cache["v"][:, -kept:]
                cache["local_end_index"] = torch.tensor([first + kept])
        return prompt_embeds[number]


class Interactive(Pipeline):
    """LongLive's: one prompt a chunk; where it changes, the newest frames are read again."""

    local_attn_size = -1
    global_sink = False

    def before_chunk(self, number: int, made: list[Tensor], prompt_embeds: Any) -> Tensor:
        if number and prompt_embeds[number] is not prompt_embeds[number - 1]:
            done = torch.cat(made, dim=1)
            self._recache_after_switch(done, done.shape[1], prompt_embeds[number])
        return prompt_embeds[number]

    def _recache_after_switch(self, output: Tensor, current: int, prompt_embeds: Tensor) -> None:
        for cache in self.crossattn_cache:
            cache["is_init"] = False
        frames = current if self.local_attn_size == -1 else min(self.local_attn_size, current)
        self.read_again(output[:, current - frames : current], prompt_embeds, current - frames)
        for cache in self.crossattn_cache:
            cache["is_init"] = False

    def read_again(self, frames: Tensor, prompt_embeds: Tensor, start: int) -> None:
        self.call(frames, prompt_embeds, self.context_noise, start)


class Guided(Loop):
    """Classifier-free guidance: many steps, and a second cache for what is not wanted."""

    names = ("kv_cache_pos", "kv_cache_neg")

    def __init__(self, config: dict[str, Any], sigmas: list[float], scale: float = 3) -> None:
        super().__init__(config)
        self.sigmas, self.guidance_scale = [*sigmas, 0.0], scale

    @torch.no_grad()
    def inference(self, noise: Tensor, wanted: Tensor, unwanted: Tensor) -> Tensor:
        self.begin(noise)
        size, made = self.num_frame_per_block, []
        for number in range(noise.shape[1] // size):
            x, frame = noise[:, number * size : (number + 1) * size], number * size

            def both(x: Tensor, timestep: float, frame: int = frame) -> Tensor:
                flow = self.call(x, wanted, timestep, frame, "kv_cache_pos")
                if self.guidance_scale == 1:
                    return flow
                away = self.call(x, unwanted, timestep, frame, "kv_cache_neg")
                return away + self.guidance_scale * (flow - away)

            for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
                x = x + (following - sigma) * both(x, 1000 * sigma)
            both(x, 0)
            made.append(x)
        return torch.cat(made, dim=1)
