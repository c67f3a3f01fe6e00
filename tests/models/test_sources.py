"""Names to files: presets, checkpoints, folders and hub ids, from the cache or from a folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchLCMScheduler
from diffusers.video_processor import VideoProcessor
from safetensors.torch import save_file
from torch import Tensor

from tests.models.checkpoints.made import wan_names
from tests.models.hub import PRESET, into_cache, toy_base, toy_checkpoint
from tests.toys import toy_pipeline, toy_transformer
from tethercache.errors import DamagedModelError, MissingModelError
from tethercache.fit.sizes import measure
from tethercache.models import (
    BASE,
    BASES,
    PRESETS,
    HubFile,
    base_lacks,
    fetch,
    find,
    fingerprint,
    present,
    sources,
)
from tethercache.models.checkpoints.convert import convert
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies import POLICIES
from tethercache.policies.window import Window
from tethercache.request import plan_video
from tethercache.rollout import Steps

PROMPT = "a red ball rolling over grass"


def latents(pipe: CausalVideoPipeline) -> Tensor:
    chunks = pipe.stream(PROMPT, num_latent_frames=6, policy=Window(window=6), decode=False)
    return torch.cat(list(chunks), dim=2)


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """What the toy checkpoint makes when its transformer is put together by hand."""
    pipe = toy_pipeline()
    pipe.register_modules(transformer=toy_transformer(seed=7))
    return latents(pipe)


def test_a_preset_loads_from_the_cache_of_the_hub(hub: Path, expected: Tensor) -> None:
    pipe = CausalVideoPipeline.from_pretrained("toy")
    assert pipe.settings == PRESET.settings
    assert torch.allclose(latents(pipe), expected, atol=1e-6)


def test_a_preset_loads_from_a_folder_of_weights(
    hub: Path, expected: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    toy_base(tmp_path / "Wan2.1-T2V-1.3B-Diffusers")
    for place in ("somebody/toy-forcing/checkpoints", "toy-forcing/checkpoints", "checkpoints", ""):
        path = toy_checkpoint(tmp_path / place / "toy.pt")
        pipe = CausalVideoPipeline.from_pretrained("toy", weights_dir=tmp_path)
        assert torch.allclose(latents(pipe), expected, atol=1e-6), place
        path.unlink()
    with pytest.raises(MissingModelError, match=r"lacks `checkpoints/toy.pt` of somebody"):
        fetch(find("toy"), tmp_path)


def test_a_preset_of_base_and_lora_is_merged(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="LoRA is an extra")
    file = HubFile(PRESET.transformer.repository, "checkpoints/lora.pt")
    preset = dataclasses.replace(PRESET, lora=file, prefer=("generator", "generator_ema"))
    monkeypatch.setitem(PRESETS, "toy-long", preset)  # type: ignore[arg-type]
    toy_base(tmp_path / BASE)
    toy_checkpoint(tmp_path / "checkpoints/toy.pt")
    down, up = torch.randn(2, 24), torch.randn(24, 2)
    name = "base_model.model.blocks.1.self_attn.k"
    state = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    torch.save({"generator_lora": state}, tmp_path / "checkpoints/lora.pt")
    pipe = CausalVideoPipeline.from_pretrained("toy-long", weights_dir=tmp_path)
    plain = toy_transformer(seed=7).blocks[1].attn1.to_k.weight
    assert torch.allclose(pipe.transformer.blocks[1].attn1.to_k.weight, plain + up @ down)
    assert fetch(find("toy-long"), tmp_path).fingerprint() != fetch(find("toy")).fingerprint()


def test_one_file_on_the_hub_is_a_model(hub: Path) -> None:
    model = find("somebody/toy-forcing/checkpoints/toy.pt")
    parts = fetch(model)
    assert parts.transformer is not None
    assert parts.transformer.name == "toy.pt"
    assert (parts.settings.chunk_size, parts.settings.window) == (3, 21)


def test_a_checkpoint_on_disk_borrows_the_base(hub: Path, tmp_path: Path) -> None:
    path = toy_checkpoint(tmp_path / "mine.pt")
    parts = fetch(find(str(path)))
    assert parts.transformer == path
    assert (parts.pipeline / "vae/config.json").is_file()


def test_a_checkpoint_of_48_channels_borrows_the_parts_of_wan_2_2(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=6,
        z_dim=48,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=8,
    )
    size, model = {"height": 32, "width": 32}, toy_transformer(channels=48)
    made = toy_pipeline(**size)
    made.register_modules(vae=vae.eval(), transformer=model)
    made.video_processor = VideoProcessor(vae_scale_factor=8)
    toy_base(tmp_path / BASES[48], made)
    toy_base(tmp_path / BASE)
    torch.save({"generator": wan_names(model)}, tmp_path / "mine.pt")
    (tmp_path / "config.json").write_text('{"dim": 24, "num_heads": 2}')
    parts = fetch(find(str(tmp_path / "mine.pt")), tmp_path)
    assert parts.pipeline == tmp_path / BASES[48]
    parts = dataclasses.replace(parts, settings=dataclasses.replace(made.settings, **size))
    pipe, asked = CausalVideoPipeline.from_pretrained(parts), {"policy": Window(window=6)}
    frames = pipe(PROMPT, num_frames=21, **asked).frames
    assert frames.shape == (1, 21, 32, 32, 3)
    assert abs(frames - made(PROMPT, num_frames=21, **asked).frames).max() < 1e-5
    sizes = measure(parts)
    assert (sizes.vae_patched, sizes.vae_base, sizes.tokens) == (True, 6, 4)
    assert sizes.vae == sum(parameter.numel() for parameter in vae.parameters())


def test_a_converted_checkpoint_makes_the_same(hub: Path, expected: Tensor, tmp_path: Path) -> None:
    source = toy_checkpoint(tmp_path / "mine.pt")
    target = convert(source, tmp_path / "converted", settings=PRESET.settings)
    pipe = CausalVideoPipeline.from_pretrained(target)
    assert pipe.settings == PRESET.settings
    assert torch.allclose(latents(pipe), expected, atol=1e-6)
    assert find(str(target)).settings == PRESET.settings
    with pytest.raises(FileExistsError):
        convert(source, target)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.pt", "config.json", "converted"}


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DamagedModelError, match="cut off"):
        convert(tmp_path / "bad.pt", tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_a_whole_pipeline_on_the_hub_brings_its_settings(hub: Path, tmp_path: Path) -> None:
    toy_pipeline(chunk_size=2).save_pretrained(tmp_path / "pipeline")
    (tmp_path / "pipeline/model.bin").write_bytes(b"a pickle")
    shutil.rmtree(hub / "models--somebody--whole", ignore_errors=True)
    into_cache(hub, "somebody/whole", tmp_path / "pipeline")
    pipe = CausalVideoPipeline.from_pretrained("somebody/whole")
    assert pipe.settings.chunk_size == 2
    assert torch.equal(latents(pipe), latents(toy_pipeline(chunk_size=2)))


def test_a_pipeline_of_diffusers_gets_the_few_step_scheduler(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "wan")
    index = tmp_path / "wan/model_index.json"
    index.write_text(index.read_text().replace("FlowMatchLCMScheduler", "UniPCMultistepScheduler"))
    pipe = CausalVideoPipeline.from_pretrained(tmp_path / "wan")
    assert type(pipe.scheduler).__name__ == "FlowMatchLCMScheduler"
    assert torch.equal(latents(pipe), latents(toy_pipeline()))


def test_what_is_missing_is_named_and_nothing_is_asked_for(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingModelError, match=r"self_forcing_dmd.pt.*5\.68 GB.*--weights-dir"):
        fetch(find("self-forcing"))
    with pytest.raises(MissingModelError, match=r"model_index.json.*somebody/else"):
        fetch(find("somebody/else"))
    assert present(PRESET.transformer)
    assert base_lacks() == []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert base_lacks() == ["model_index.json", "vae", "text_encoder", "tokenizer"]
    assert not list(tmp_path.iterdir())


def test_the_network_is_not_asked_about_what_is_in_the_cache(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", ask)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    assert fetch(find("toy")).transformer is not None


def test_an_incomplete_base_is_named(hub: Path, tmp_path: Path) -> None:
    base = toy_base(tmp_path / BASE)
    (base / "vae/diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(base / "tokenizer")
    toy_checkpoint(tmp_path / "toy.pt")
    with pytest.raises(MissingModelError, match=r"no vae/\*\.safetensors, tokenizer/"):
        fetch(find("toy"), tmp_path)
    assert base_lacks(tmp_path) == ["vae/*.safetensors", "tokenizer/"]


@pytest.mark.parametrize("name", ["nothing", "./nothing", "a/b.pt", "/a/b/c", "a//b", "a/b/c"])
def test_a_name_that_means_nothing_says_what_could(name: str) -> None:
    with pytest.raises(MissingModelError, match=r"no model at .*self-forcing"):
        find(name)


STRANGE_SETTINGS: list[dict[str, object]] = [
    {"sigmas": 3},
    {"sigmas": ["a"]},
    {"sigmas": [2.0]},
    {"chunk_size": 10**9},
    {"height": "64"},
    {"fps": 0},
    {"window": True},
    {"context_noise": float("nan")},
    {"max_sequence_length": 10**12},
    {"max_sequence_length": 6_000},  # attention between all of them takes gigabytes
]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 100_000, *(json.dumps(settings) for settings in STRANGE_SETTINGS)],
    ids=range(4 + len(STRANGE_SETTINGS)),
)
def test_a_damaged_index_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(DamagedModelError, match=r"cannot (read|load) .*model_index\.json"):
        find(str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
def test_the_policy_of_a_preset_fits_its_window(name: str) -> None:
    preset = PRESETS[name]
    plan_video(preset.settings, POLICIES.parse(preset.policy), num_seconds=240)
    larger = Window(window=preset.settings.window + preset.settings.chunk_size)
    with pytest.raises(ValueError, match="must not exceed"):
        plan_video(preset.settings, larger, num_seconds=240)


@pytest.mark.parametrize(
    ("name", "steps", "first"),
    [
        ("self-forcing", (1000, 937, 833, 625), None),
        ("causal-forcing-2step", (1000, 833), (1000, 937, 833, 625)),
        ("causal-forcing-1step", (1000,), (1000, 937, 833, 625)),
        ("causal-forcing-long", (1000, 937, 833, 625), None),
        ("krea-realtime", (1000, 937, 833, 625), None),  # as its configuration has them
        ("longlive-2", (1000, 937, 833, 625), None),
    ],
)
def test_a_preset_has_the_timesteps_of_its_authors(
    name: str, steps: tuple[int, ...], first: tuple[int, ...] | None
) -> None:
    preset = PRESETS[name]
    scheduler = FlowMatchLCMScheduler(shift=preset.shift)
    for sigmas, expected in (
        (preset.settings.sigmas, steps),
        (preset.settings.first_sigmas, first),
    ):
        made = sigmas and Steps.from_scheduler(scheduler, list(sigmas)).timesteps
        assert (made and tuple(map(int, made))) == expected


def test_the_fingerprint_covers_every_part(hub: Path, tmp_path: Path) -> None:
    first = fetch(find("toy")).fingerprint()
    # the cache names files by their hash; the same files elsewhere have the same fingerprint
    toy_base(tmp_path / BASE)
    toy_checkpoint(tmp_path / "checkpoints/toy.pt")
    assert fetch(find("toy"), tmp_path).fingerprint() == first
    toy_checkpoint(tmp_path / "checkpoints/toy.pt", seed=8)
    assert fetch(find("toy"), tmp_path).fingerprint() != first


def test_the_fingerprint_covers_how_the_weights_are_used(hub: Path, tmp_path: Path) -> None:
    source = toy_checkpoint(tmp_path / "mine.pt")
    ways = {
        "plain": {"settings": PRESET.settings},
        "again": {"settings": PRESET.settings},
        "shift": {"settings": PRESET.settings, "shift": 8.0},
        "context": {"settings": dataclasses.replace(PRESET.settings, context_noise=100.0)},
    }
    found = {
        name: fetch(find(str(convert(source, tmp_path / name, **way)))).fingerprint()
        for name, way in ways.items()
    }
    assert found["plain"] == found["again"]
    assert len(set(found.values())) == 3


def test_the_fingerprint_of_a_folder_covers_its_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    first = fingerprint(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert fingerprint(tmp_path) != first


def test_sizes_are_read_without_loading(hub: Path) -> None:
    sizes, pipe = measure(fetch(find("toy"))), CausalVideoPipeline.from_pretrained("toy")
    for name in ("transformer", "vae", "text_encoder"):
        module = getattr(pipe, name)
        assert getattr(sizes, name) == sum(p.numel() for p in module.parameters()), name
    assert (sizes.layers, sizes.width, sizes.tokens) == (2, 24, 4)


@pytest.mark.parametrize("header", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\0" * 8])
def test_damaged_headers_are_one_line(header: bytes, tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path)
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").write_bytes(header)
    with pytest.raises(DamagedModelError, match=r"cannot load .*vae"):
        measure(fetch(find(str(tmp_path))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (
            b"<!doctype html><title>404</title>",
            "neither a safetensors nor a GGUF nor a PyTorch file",
        ),
        (b"", "is empty"),
    ],
)
def test_a_damaged_checkpoint_is_found_out_before_its_base_is_looked_for(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "fetch_base", lambda *_: pytest.fail("looked for the base"))
    (tmp_path / "mine.pt").write_bytes(content)
    with pytest.raises(DamagedModelError, match=message):
        fetch(find(str(tmp_path / "mine.pt")))
    (tmp_path / "folder/transformer").mkdir(parents=True)
    (tmp_path / "folder/scheduler").mkdir()
    (tmp_path / "folder/scheduler/scheduler_config.json").write_text("{}")
    (tmp_path / "folder/model_index.json").write_text('{"vae": [null, null]}')
    weights = tmp_path / "folder/transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(content)
    with pytest.raises(DamagedModelError):
        fetch(find(str(tmp_path / "folder")))


def test_a_name_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    for name in ("x" * 300, "./" + "x" * 5000, f"{tmp_path}/{'x' * 300}.pt", "./zero\0byte"):
        with pytest.raises(MissingModelError, match="no model at"):
            find(name)
    with pytest.raises(MissingModelError, match="lacks"):
        fetch(find("toy/x" + "/y" * 300 + ".pt"), tmp_path)
