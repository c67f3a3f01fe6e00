"""The arithmetic that a chunk needs, whoever manages the memory.

Counted are matrix products, two operations for a multiplication and an addition. With L tokens in
the chunk, width C, feed-forward width F, N tokens in view and P of text, a transformer block needs

    self-attention projections   4 x 2 L C^2
    cross-attention q and out    2 x 2 L C^2     (keys and values: once a prompt, not counted)
    feed-forward                 2 x 2 L C F
    self-attention               2 x 2 L N C
    cross-attention              2 x 2 L P C

and the model around the blocks 2 L C (p_in + p_out) for patches of p numbers and 2 (C f + 7 C^2)
for the timestep with f frequencies (`docs/reference.md`, section 9: 1.347 TFLOP a block and pass,
202 a chunk, at full size). What GRAB, TAME and rotations add is overhead and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any


def pass_flops(
    config: Mapping[str, Any], *, tokens: int, visible: int, text: int, stops: bool = False
) -> int:
    """Operations of one model call on one sample.

    Args:
        config: of a text-to-video `WanTransformer3DModel`.
        tokens: tokens of the chunk (L).
        visible: tokens that self-attention reads, those of the chunk included (N).
        text: tokens of the prompt, padding included (P).
        stops: whether the call ends with queries, keys and values of the last block, as a context
            pass may whose output nobody reads.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    ffn, layers = config["ffn_dim"], config["num_layers"]
    projection = 2 * tokens * width**2
    block = 6 * projection + 4 * tokens * width * (ffn + visible + text)
    patch = prod(config["patch_size"])
    embed = 2 * tokens * width * config["in_channels"] * patch
    embed += 2 * (width * config["freq_dim"] + 7 * width**2)
    if stops:
        return int((layers - 1) * block + 3 * projection + embed)
    return int(layers * block + embed + 2 * tokens * width * config["out_channels"] * patch)


def chunk_flops(
    config: Mapping[str, Any],
    *,
    tokens_per_frame: int,
    frames: int,
    budget: int,
    text: int,
    steps: int,
    context_stops: bool = False,
) -> int:
    """Operations of one steady chunk: `steps` denoising passes and the context pass.

    Args:
        config: see `pass_flops`.
        tokens_per_frame: tokens of a latent frame.
        frames: latent frames of the chunk.
        budget: latent frames that attention reads (K).
        text: tokens of the prompt.
        steps: denoising passes.
        context_stops: whether the context pass ends early, see `pass_flops`.
    """

    def one(stops: bool) -> int:
        tokens, visible = frames * tokens_per_frame, budget * tokens_per_frame
        return pass_flops(config, tokens=tokens, visible=visible, text=text, stops=stops)

    return steps * one(False) + one(context_stops)
