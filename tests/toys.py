"""Real classes at toy size: a whole pipeline with random weights, small enough for a test."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, FlowMatchLCMScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tethercache.pipeline import CausalVideoPipeline

TEXT_DIM = 8
TEXT_LENGTH = 6
WORDS = ("a", "red", "blue", "ball", "rolling", "over", "grass", "sand")


def toy_transformer(
    *, layers: int = 2, heads: int = 2, head_dim: int = 12, channels: int = 4, seed: int = 0
) -> WanTransformer3DModel:
    """A random transformer whose every parameter matters (no zero biases or modulations)."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=layers,
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            scale = 0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.add_(torch.randn_like(parameter) * scale)
    return transformer.eval().requires_grad_(False)


def toy_pipeline(**settings: object) -> CausalVideoPipeline:
    """A whole pipeline: 16x16 pixels, chunks of 3, a window of 21 latent frames."""
    torch.manual_seed(0)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    vocabulary |= {word: 3 + i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary), d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=1, num_heads=2
        )
    )
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 0.5, 2.0, 1.5],
        scale_factor_spatial=4,
    )
    options = {"height": 16, "width": 16, "max_sequence_length": TEXT_LENGTH} | settings
    return CausalVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        transformer=toy_transformer(),
        vae=vae.eval(),
        scheduler=FlowMatchLCMScheduler(shift=5.0),
        **options,
    )
