"""The pipeline: prompt in, frames out, in one piece or streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toys import toy_pipeline
from tethercache.errors import DamagedModelError, MissingModelError
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window

PROMPT = "a red ball rolling over grass"
POLICY = TetherCache(sink=1, memory=2, recent=3)


@pytest.fixture(scope="module")
def pipe() -> CausalVideoPipeline:
    return toy_pipeline()


def stream(pipe: CausalVideoPipeline, **options: object) -> torch.Tensor:
    options = {"policy": POLICY, "num_seconds": 3} | options
    prompt = options.pop("prompt", PROMPT)
    return torch.cat(list(pipe.stream(prompt, **options)), dim=1)


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_ten_seconds_are_160_frames_whatever_the_chunk(chunk_size: int) -> None:
    frames = stream(toy_pipeline(chunk_size=chunk_size), num_seconds=10)
    assert frames.shape == (1, 160, 16, 16, 3)
    assert frames.dtype == torch.uint8


def test_the_call_is_the_stream_collected(pipe: CausalVideoPipeline) -> None:
    streamed = stream(pipe)
    options = {"policy": POLICY, "num_seconds": 3}
    video = pipe(PROMPT, **options).frames
    assert video.shape == (1, 48, 16, 16, 3)
    assert np.abs(video * 255 - streamed.numpy()).max() < 0.51
    assert pipe(PROMPT, output_type="pt", **options).frames.shape == (1, 48, 3, 16, 16)
    assert pipe(PROMPT, output_type="pil", **options).frames[0][0].size == (16, 16)
    latents = pipe(PROMPT, output_type="latent", **options).frames
    assert latents.shape == (1, 4, 15, 4, 4)
    with pytest.raises(ValueError, match="output_type"):
        pipe(PROMPT, output_type="gif", **options)


def test_seeds_samples_and_prompts_make_a_difference_and_nothing_else_does(
    pipe: CausalVideoPipeline,
) -> None:
    first = stream(pipe)
    assert torch.equal(first, stream(pipe))
    assert not torch.equal(first, stream(pipe, seed=1))
    assert not torch.equal(first, stream(pipe, samples=[1]))
    assert not torch.equal(first, stream(pipe, prompt="a blue ball over sand"))
    assert not torch.equal(first, stream(pipe, policy=Window(window=6)))


def test_a_batch_of_prompts_equals_each_alone(pipe: CausalVideoPipeline) -> None:
    prompts = [PROMPT, "a blue ball"]
    together = stream(pipe, prompt=prompts, samples=[0, 3])
    for i, (prompt, sample) in enumerate(zip(prompts, [0, 3], strict=True)):
        alone = stream(pipe, prompt=prompt, samples=[sample])
        assert (together[i : i + 1].int() - alone.int()).abs().max() <= 1


def test_a_prefix_comes_first_and_is_not_changed(pipe: CausalVideoPipeline) -> None:
    prefix = torch.randn(1, 4, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"policy": POLICY, "num_latent_frames": 12, "latents": True}
    latents = torch.cat(list(pipe.stream(PROMPT, prefix_latents=prefix, **options)), dim=2)
    assert latents.shape[2] == 12
    assert torch.equal(latents[:, :, :6], prefix)
    assert not torch.equal(latents, torch.cat(list(pipe.stream(PROMPT, **options)), dim=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "must not be empty"),
        ({"prompt": []}, "must not be empty"),
        ({"samples": [0, 1]}, "`samples` .2. must be as many as prompts"),
        ({"num_seconds": -1}, "must be a positive number"),
        ({"num_latent_frames": 3}, "one of the two"),
    ],
)
def test_mistakes_are_named(
    pipe: CausalVideoPipeline, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stream(pipe, **options)


def test_unknown_words_are_named_in_a_warning(
    pipe: CausalVideoPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    stream(pipe, prompt="a red zebra, rolling over lava")
    assert "zebra, lava" in caplog.text


def test_a_saved_pipeline_loads_and_makes_the_same(
    pipe: CausalVideoPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    loaded = CausalVideoPipeline.from_pretrained(tmp_path / "model")
    assert loaded.settings == pipe.settings
    assert torch.equal(stream(loaded), stream(pipe))


def test_missing_and_damaged_models_have_their_own_errors(
    pipe: CausalVideoPipeline, tmp_path: Path
) -> None:
    with pytest.raises(MissingModelError, match="no model at"):
        CausalVideoPipeline.from_pretrained(tmp_path / "nothing")
    pipe.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model/transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DamagedModelError, match="cannot load"):
        CausalVideoPipeline.from_pretrained(tmp_path / "model")
    weights.unlink()
    with pytest.raises(DamagedModelError, match="cannot load"):
        CausalVideoPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.gpu
def test_it_runs_in_bfloat16_on_an_accelerator() -> None:
    if not torch.accelerator.is_available():
        pytest.skip("no accelerator here")
    device = torch.accelerator.current_accelerator()
    pipe = toy_pipeline().to(device, torch.bfloat16)
    assert stream(pipe).shape == (1, 48, 16, 16, 3)


def test_it_runs_in_bfloat16(pipe: CausalVideoPipeline) -> None:
    assert stream(toy_pipeline().to(torch.bfloat16)).shape == (1, 48, 16, 16, 3)
