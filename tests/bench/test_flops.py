from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.toy import DEVICE, TOY
from tethercache.bench.bare import attach_bare
from tethercache.bench.flops import chunk_flops, pass_flops

WAN = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "num_layers": 30,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
}


@pytest.mark.parametrize("stops", [False, True])
def test_a_pass_needs_what_the_modules_are_counted_to_do(stops: bool) -> None:
    model = TOY.build(DEVICE, torch.float32)
    latents = torch.randn(1, 16, 3, *model.latent_size)
    told = torch.zeros(1)
    with torch.no_grad(), attach_bare(model.transformer, 21) as session:
        with session.chunk(3), session.denoising_pass():  # the text is projected once
            model.transformer(latents, told, model.prompt_embeds)
        with (
            sdpa_kernel(SDPBackend.MATH),  # the counter does not know the fused kernel of a CPU
            FlopCounterMode(display=False) as counter,
            session.context_pass(output=not stops),
        ):
            model.transformer(latents, told, model.prompt_embeds)
    tokens = model.tokens_per_frame
    assert counter.get_total_flops() == pass_flops(
        model.transformer.config, tokens=3 * tokens, visible=21 * tokens, text=6, stops=stops
    )


def test_at_full_size_it_is_what_the_reference_says() -> None:
    sizes = {"tokens_per_frame": 1560, "frames": 3, "budget": 21, "text": 512, "steps": 4}
    assert chunk_flops(WAN, **sizes) == pytest.approx(202e12, rel=0.005)
    saved = chunk_flops(WAN, **sizes) - chunk_flops(WAN, **sizes, context_stops=True)
    assert saved == pytest.approx(1.28e12, rel=0.01)
