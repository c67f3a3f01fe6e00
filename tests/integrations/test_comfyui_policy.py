"""The node "TetherCache policy", on a stand-in for ComfyUI; the real one is in `test_comfyui`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from integrations.comfyui.policy import TetherCachePolicy
from tests.golden.runner import load_transformer
from tests.integrations.stand_in import (
    BaseModel,
    CausalWan,
    Guider,
    Patcher,
    Sampler,
    sample_ar_video,
    sample_euler,
)
from tests.models.checkpoints.made import GOLDEN, plain
from tethercache.backbones import attach, float64_sinusoid

WHOLE = "fifo:window=21,positions=absolute"
SMALL = "tethercache:sink=1,memory=2,recent=3"
SIGMAS = torch.tensor([1.0, 0.9375, 5 / 6, 0.625, 0.0])


@pytest.fixture
def model() -> Patcher:
    with safe_open(GOLDEN / "model.safetensors", "pt") as file:
        transformer = CausalWan(json.loads(file.metadata()["config"]))
    transformer.load_state_dict(plain())
    return Patcher(BaseModel(transformer.eval().requires_grad_(False)))


@pytest.fixture(scope="module")
def noise() -> Tensor:
    """`[B, C, F, h, w]`: two samples of 12 latent frames."""
    stored = load_file(GOLDEN / "inputs.safetensors")["noise"]
    return torch.cat((stored, stored.flip(1)))[:, :12].transpose(1, 2)


@pytest.fixture(scope="module")
def text() -> Tensor:
    stored = load_file(GOLDEN / "inputs.safetensors")["prompt_embeds"]
    return torch.cat((stored, stored.flip(1)))


def patched(model: Patcher, policy: str) -> Any:
    return TetherCachePolicy().patch(model, policy)[0]


def run(model: Any, noise: Tensor, text: Tensor, chunk: int = 3, **options: Any) -> Tensor:
    guider = Guider(model, text[: len(noise)])
    return guider.sample(noise, SIGMAS, Sampler(chunk=chunk), **options).clone()


def attributes(model: Patcher) -> list[Any]:
    transformer = model.model.diffusion_model
    return [sorted(vars(m)) for m in transformer.modules()]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_the_whole_window_is_the_unpatched_sampler(
    model: Patcher, noise: Tensor, text: Tensor, chunk: int, batch: int
) -> None:
    inputs = (noise[:batch, :, :7], text, chunk)
    expected = run(model, *inputs)
    assert torch.allclose(run(patched(model, WHOLE), *inputs), expected, atol=1e-5, rtol=0)
    assert torch.equal(run(model, *inputs), expected), "the MODEL itself has changed"


def test_a_picture_comes_first_where_the_video_starts_with_one(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    inputs, prefix = (noise[:1, :, :7], text), noise[:1, :, 7:8].clone()
    expected = run(model, *inputs, prefix=prefix)
    found = run(patched(model, WHOLE), *inputs, prefix=prefix)
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found[:, :, 1:], run(model, *inputs)[:, :, 1:], atol=1e-3)


@torch.no_grad()
def test_beyond_the_window_it_is_our_own_loop(model: Patcher, noise: Tensor, text: Tensor) -> None:
    transformer, made = load_transformer(GOLDEN), []
    with float64_sinusoid(transformer), attach(transformer, SMALL, chunk_size=3) as session:
        for number, x in enumerate(noise.split(3, dim=2)):
            with session.chunk(3, 4):
                for step, sigma in enumerate(SIGMAS[:-1]):
                    with session.denoising_pass():
                        times = torch.full((len(x),), 1000 * float(sigma))
                        x = x - sigma * transformer(x, times, text).sample
                    if (lower := SIGMAS[step + 1]) > 0:
                        torch.manual_seed(7 + 3000 * number + step)
                        x = (1 - lower) * x + lower * torch.randn_like(x)
                with session.context_pass():
                    transformer(x, torch.zeros(len(x)), text)
            made.append(x)
    found = run(patched(model, SMALL), noise, text)
    assert torch.allclose(found, torch.cat(made, dim=2), atol=1e-5, rtol=0)
    assert not torch.allclose(found, run(model, noise, text), atol=1e-3)


def test_latents_of_odd_sizes_have_the_tokens_that_the_model_pads_them_to(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    class Padding(CausalWan):
        def forward(self, x: Tensor, *args: Any) -> Tensor:
            height, width = x.shape[3:]
            padded = torch.nn.functional.pad(x, (0, width % 2, 0, height % 2))
            return super().forward(padded, *args)[..., :height, :width]

    model.model.diffusion_model.__class__ = Padding
    inputs = (noise[:1, :, :6, :7, :9], text)
    expected = run(model, *inputs)
    assert torch.allclose(run(patched(model, WHOLE), *inputs), expected, atol=1e-5, rtol=0)


def test_no_memory_is_allotted_and_nothing_stays(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    before = attributes(model)
    run(patched(model, SMALL), noise[:1], text)
    assert attributes(model) == before
    assert not model.model.diffusion_model.allotted


def test_whatever_breaks_a_sampling_leaves_the_model_as_it_was(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    class Cancelled(BaseException):
        pass

    calls = iter(range(6))

    def cancel() -> None:
        if next(calls, None) is None:
            raise Cancelled

    before, ours = attributes(model), patched(model, WHOLE)
    with pytest.raises(Cancelled):
        run(ours, noise[:1], text, callback=cancel)
    assert attributes(model) == before
    expected = run(model, noise[:1, :, :6], text)
    assert torch.allclose(run(ours, noise[:1, :, :6], text), expected, atol=1e-5, rtol=0)


def test_the_last_of_two_nodes_in_a_row_decides(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    twice = patched(patched(model, "fifo:window=3"), WHOLE)
    expected = run(model, noise[:1, :, :6], text)
    assert torch.allclose(run(twice, noise[:1, :, :6], text), expected, atol=1e-5, rtol=0)


def refused(model: Any, noise: Tensor, text: Tensor, **given: Any) -> None:
    sampler, sigmas = given.pop("sampler", Sampler()), given.pop("sigmas", SIGMAS)
    conditions = given.pop("conditions", [0])
    guider = Guider(model, text[: len(noise)], **given)
    guider.conditions = conditions
    guider.sample(noise, sigmas, sampler)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sampler": Sampler(sample_euler)}, "Sampler AR Video.*`sample_euler`"),
        ({"cfg": 5.0}, r"`cfg` \(5\) must be 1"),
        ({"sigmas": SIGMAS[:3]}, r"the last sigma \(0.8333\d*\) must be 0"),
        ({"conditions": [0, 1]}, "one conditioning"),
        ({"conditions": [1]}, "one conditioning"),
    ],
)
def test_what_cannot_be_right_is_refused(
    model: Patcher, noise: Tensor, text: Tensor, given: dict[str, Any], words: str
) -> None:
    before = attributes(model)
    with pytest.raises(ValueError, match=words):
        refused(patched(model, WHOLE), noise[:1], text, **given)
    assert attributes(model) == before


def test_a_length_that_the_policy_cannot_serve_is_refused_before_anything_is_made(
    model: Patcher, noise: Tensor, text: Tensor
) -> None:
    def begins(*args: Any, **kwargs: Any) -> None:
        pytest.fail("it has begun")

    begins.__name__ = sample_ar_video.__name__
    with pytest.raises(ValueError, match="chunk"):
        refused(patched(model, SMALL), noise[:1], text, sampler=Sampler(begins, chunk=5))


def test_models_that_remember_nothing_are_refused(model: Patcher) -> None:
    with pytest.raises(ValueError, match=r"must be a causal Wan .* not a Linear.*`causal_ar`"):
        patched(Patcher(BaseModel(torch.nn.Linear(1, 1))), WHOLE)
    model.model.diffusion_model.patch_size = (2, 2, 2)
    with pytest.raises(ValueError, match="temporal patch size must be 1, not 2"):
        patched(model, WHOLE)


def test_a_wrong_spec_is_said_when_the_workflow_is_queued() -> None:
    assert TetherCachePolicy.VALIDATE_INPUTS("sink:window=12") is True
    assert TetherCachePolicy.VALIDATE_INPUTS(None) is True, "another node makes it"
    assert "`window` (2) must be larger" in str(TetherCachePolicy.VALIDATE_INPUTS("sink:window=2"))
    assert "tethercache" in str(TetherCachePolicy.VALIDATE_INPUTS("tether"))


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_every_node_has_what_comfyui_asks_of_one(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    assert NODE_DISPLAY_NAME_MAPPINGS[name].startswith("TetherCache ")
    assert callable(getattr(node(), node.FUNCTION))
    assert set(node.INPUT_TYPES()) <= {"required", "optional"}
    assert isinstance(node.RETURN_TYPES, tuple)
    assert node.DESCRIPTION
    assert node.CATEGORY == "TetherCache"
