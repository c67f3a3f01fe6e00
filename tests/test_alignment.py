"""Whatever computes on a CPU starts at a multiple of 64 bytes, by whatever path it was loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.models.hub import toy_base, toy_checkpoint
from tests.toys import toy_pipeline, toy_transformer
from tethercache.alignment import align, aligned, is_aligned
from tethercache.backbones import attach
from tethercache.conditioning import encode_frames, encode_prompts
from tethercache.models import BASE
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.window import Window
from tethercache.video import StreamingDecoder

PROMPT = "a red ball rolling over grass"
PARTS = ("transformer", "vae", "text_encoder")


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def strays(pipe: Any) -> list[str]:
    """The parameters and buffers of a pipeline that do not start at a multiple of 64 bytes."""
    return [
        f"{part}.{name}"
        for part in PARTS
        for name, tensor in tensors(getattr(pipe, part))
        if tensor.data_ptr() % 64
    ]


def beside(tensor: Tensor) -> Tensor:
    """The same values, 8 bytes behind a multiple of 64."""
    size = tensor.numel() * tensor.element_size()
    memory = torch.empty(size + 8, dtype=torch.uint8)
    moved = memory[8:].view(tensor.dtype).view(tensor.shape)
    moved.copy_(tensor)
    assert not is_aligned(moved)
    return moved


def displace(module: nn.Module) -> nn.Module:
    """Move all tensors of a module where a mapped file might have them."""
    for _, tensor in tensors(module):
        tensor.data = beside(tensor.data)
    return module


def latents(pipe: CausalVideoPipeline, **options: Any) -> Tensor:
    policy = Window(window=6)
    return torch.cat(list(pipe.stream(PROMPT, policy=policy, decode=False, **options)), dim=2)


def lora(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    name = "diffusion_model.blocks.1.self_attn.k"
    state = {
        f"{name}.lora_A.weight": torch.randn(2, 24, generator=generator),
        f"{name}.lora_B.weight": torch.randn(24, 2, generator=generator),
    }
    save_file(state, folder / "lora.safetensors")
    return folder / "lora.safetensors"


def saved(folder: Path) -> Path:
    toy_pipeline().save_pretrained(folder / "saved")
    return folder / "saved"


def checkpoint(folder: Path) -> dict[str, Any]:
    toy_base(folder / BASE)
    path = toy_checkpoint(folder / "toy.pt")
    return {"pretrained_model_name_or_path": path, "weights_dir": folder}


LOADED = {
    "the shipped model": lambda folder: CausalVideoPipeline.from_pretrained("tiny"),
    "a saved pipeline": lambda folder: CausalVideoPipeline.from_pretrained(saved(folder)),
    "in another format": lambda folder: CausalVideoPipeline.from_pretrained(
        saved(folder), torch_dtype=torch.bfloat16
    ),
    "a checkpoint and its base": lambda folder: CausalVideoPipeline.from_pretrained(
        **checkpoint(folder)
    ),
    "with a LoRA": lambda folder: CausalVideoPipeline.from_pretrained(
        saved(folder), loras=[(lora(folder), 1.0)]
    ),
    "moved to a CPU": lambda folder: CausalVideoPipeline.from_pretrained(saved(folder)).to(
        "cpu", torch.float16
    ),
}


@pytest.mark.parametrize("path", LOADED)
def test_every_parameter_and_buffer_is_aligned_after_loading(path: str, tmp_path: Path) -> None:
    if path == "with a LoRA":
        pytest.importorskip("peft", reason="LoRA is an extra")
    assert strays(LOADED[path](tmp_path)) == []


def test_models_put_into_a_pipeline_are_aligned() -> None:
    given, pipe = toy_pipeline(), toy_pipeline()
    for part in PARTS:
        setattr(pipe, part, displace(getattr(given, part)))
    assert strays(pipe) == []
    pipe.register_modules(transformer=displace(toy_transformer()))
    assert strays(pipe) == []


def test_what_is_changed_behind_the_pipeline_is_aligned_before_it_computes(tmp_path: Path) -> None:
    pipe = CausalVideoPipeline.from_pretrained(saved(tmp_path))
    expected = latents(pipe, num_latent_frames=6)
    for part in PARTS:
        displace(getattr(pipe, part))
    assert torch.equal(latents(pipe, num_latent_frames=6), expected)
    StreamingDecoder(pipe.vae)
    assert strays(pipe) == []


def test_each_stage_aligns_what_it_computes_with() -> None:
    pipe = toy_pipeline()
    with attach(displace(pipe.transformer), Window(window=6)):
        assert not any(name.startswith("transformer") for name in strays(pipe))
    displace(pipe.text_encoder)
    encode_prompts(pipe.tokenizer, pipe.text_encoder, [PROMPT], length=6)
    displace(pipe.vae)
    encode_frames(pipe.vae, torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
    assert strays(pipe) == []


def test_embeddings_and_a_prefix_from_a_file_give_the_bits_of_those_in_memory() -> None:
    pipe = toy_pipeline()
    prefix = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    given = {"prompt_embeds": pipe.encode_prompt([PROMPT]), "prefix_latents": prefix}
    expected = latents(pipe, num_latent_frames=6, **given)
    moved = {name: beside(tensor) for name, tensor in given.items()}
    strided = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in given.items()}
    seen = []
    pipe.transformer.register_forward_pre_hook(lambda _, args: seen.extend((args[0], args[2])))
    for other in (moved, strided):
        assert torch.equal(latents(pipe, num_latent_frames=6, **other), expected)
    assert len(seen) == 2 * 2 * (1 + 5)  # runs, arguments, and passes of two chunks
    assert all(is_aligned(tensor) for tensor in seen)


def test_aligning_keeps_objects_values_and_ties() -> None:
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.BatchNorm1d(5))
    module[1].weight = module[0].weight
    module[1].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    displace(module)
    with torch.inference_mode():
        align(module)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        assert parameter is parameters[name]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(is_aligned(tensor) for _, tensor in tensors(module))
    assert not module[1].bias.requires_grad
    module(torch.randn(2, 5)).sum().backward()
    assert module[0].weight.grad is not None


def test_what_inference_mode_has_made_stays_whole() -> None:
    with torch.inference_mode():
        module = nn.Linear(5, 3)
        storage = torch.empty(64)
        module.weight.data = storage[1:16].copy_(module.weight.flatten()).view(3, 5)
        before = module.weight.clone()
        align(module)
        assert is_aligned(module.weight)
        assert torch.equal(module.weight.detach().flatten(), before.flatten())


def test_what_is_aligned_is_not_copied() -> None:
    module = nn.Linear(16, 16)
    places = {name: tensor.data_ptr() for name, tensor in tensors(module)}
    align(module)
    assert {name: tensor.data_ptr() for name, tensor in tensors(module)} == places
    assert aligned(module.weight) is module.weight
    assert is_aligned(torch.empty(3, device="meta"))
    assert is_aligned(torch.eye(3).to_sparse())
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_aligned(torch.empty(3))


def test_a_tensor_from_a_file_is_aligned(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0), "b": torch.arange(5.0)}, tmp_path / "t.safetensors")
    for tensor in load_file(tmp_path / "t.safetensors").values():
        assert is_aligned(aligned(tensor))
        assert torch.equal(aligned(tensor), tensor)
