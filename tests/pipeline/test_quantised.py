"""Quantised by a configuration of diffusers: by torchao, which also works on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.toys import toy_pipeline
from tethercache.models import Parts, Settings
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.tethercache import TetherCache

POLICY = TetherCache(sink=1, memory=2, recent=3)


def latents(pipe: Any) -> Tensor:
    made = pipe("a red ball", num_frames=93, policy=POLICY, output_type="latent").frames
    assert isinstance(made, Tensor)
    return made


@pytest.fixture(scope="module")
def eight_bits() -> Any:
    pytest.importorskip("torchao", reason="torchao is not installed")
    from diffusers import PipelineQuantizationConfig, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    eight = TorchAoConfig(Int8WeightOnlyConfig())
    return PipelineQuantizationConfig(quant_mapping={"transformer": eight})


def test_a_quantised_model_runs_roughly_the_same(model: Path, eight_bits: Any) -> None:
    plain = latents(CausalVideoPipeline.from_pretrained(model, dtype=torch.bfloat16)).float()
    pipe = CausalVideoPipeline.from_pretrained(
        model, dtype=torch.bfloat16, quantization_config=eight_bits
    )
    weight = pipe.transformer.blocks[0].attn1.to_q.weight
    assert type(weight) not in (Tensor, torch.nn.Parameter)
    quantised = latents(pipe).float()
    assert 0 < (quantised - plain).abs().mean() < 0.2 * plain.abs().mean()
    assert torch.equal(latents(pipe).float(), quantised)


def test_a_batch_of_quantised_videos(model: Path, eight_bits: Any) -> None:
    pipe = CausalVideoPipeline.from_pretrained(model, quantization_config=eight_bits)
    both = pipe(["a red ball", "a blue ball"], num_frames=21, policy=POLICY, output_type="pt")
    assert both.frames.shape == (2, 21, 3, 16, 16)


def test_what_would_not_be_quantised_is_refused(tmp_path: Path, model: Path) -> None:
    config = object()  # nothing looks into it before that
    toy_pipeline().transformer.save_pretrained(tmp_path / "transformer")
    parts = Parts(model, Settings(), transformer=tmp_path / "transformer", shift=5.0)
    with pytest.raises(ValueError, match="`quantization_config` needs a whole model"):
        CausalVideoPipeline.from_pretrained(parts, quantization_config=config)
