"""The yardstick does what a window does, no more and no less."""

from __future__ import annotations

import pytest
import torch

from tests.bench.toy import DEVICE, TOY
from tethercache.backbones import attach
from tethercache.bench.bare import Buffer, attach_bare
from tethercache.policies.window import Window
from tethercache.rollout import CounterNoise, Plan, Rollout

MODEL = TOY.build(DEVICE, torch.float32)


def test_with_the_frames_of_a_window_it_makes_the_chunk_of_the_window() -> None:
    plan = Plan(24, chunk_size=3, prefix=21)
    prefix = torch.randn(1, 16, 21, *MODEL.latent_size)
    options = {"latent_size": MODEL.latent_size}
    arguments = (plan, MODEL.steps(), CounterNoise(), MODEL.prompt_embeds)
    with torch.no_grad(), attach(MODEL.transformer, Window(), chunk_size=3) as session:
        *_, ours = Rollout(MODEL.transformer, session, *arguments, prefix=prefix, **options)
        kept = [
            Buffer(cache.rotated[cache.rows, order].clone(), cache.value[cache.rows, order].clone())
            for cache in session.caches()
            for order in [cache.frame_index.argsort(dim=1)]
        ]
    alone = Plan(3, chunk_size=3)
    with torch.no_grad(), attach_bare(MODEL.transformer, 21) as bare:
        bare.buffers[:] = kept
        (theirs,) = Rollout(MODEL.transformer, bare, alone, *arguments[1:], **options)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_model_is_restored_and_the_text_is_projected_once() -> None:
    model = MODEL.transformer
    processors, counted = dict(model.attn_processors), []
    hook = model.condition_embedder.text_embedder.register_forward_hook(
        lambda *_: counted.append(1)
    )
    latents, told = torch.randn(1, 16, 3, *MODEL.latent_size), torch.zeros(1)
    with torch.no_grad(), attach_bare(model, 6) as session:
        for _ in range(2):
            with session.chunk(3), session.denoising_pass():
                model(latents, told, MODEL.prompt_embeds)
            with session.context_pass(output=False):
                model(latents, told, MODEL.prompt_embeds)
    hook.remove()
    assert counted == [1]
    assert model.attn_processors == processors
    assert not model._forward_pre_hooks


def test_it_takes_chunks_of_one_size() -> None:
    with attach_bare(MODEL.transformer, 6) as session:
        with session.chunk(3):
            pass
        with pytest.raises(ValueError, match="chunks of 3, not 2"), session.chunk(2):
            pass
