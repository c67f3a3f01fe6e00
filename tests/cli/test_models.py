"""`tethercache models`, `tethercache doctor`, and real models in `tethercache generate`."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from tests.models.conftest import hub, made_cache
from tests.models.hub import toy_base, toy_checkpoint
from tests.toys import WORDS, toy_pipeline, toy_transformer
from tethercache.cli import main
from tethercache.conditioning import known_words
from tethercache.fit import choice
from tethercache.fit.memory import Tiles, estimate
from tethercache.fit.sizes import measure
from tethercache.models import BASE, PRESETS, SHIPPED, fetch, find
from tethercache.policies.window import Window
from tethercache.render.prefix import encode_prefix, read_prefix
from tethercache.video import FrameHasher, probe, read_sidecar

__all__ = ["hub", "made_cache"]  # fixtures

PROMPT = "a red ball rolling over grass"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def test_every_model_is_listed_with_what_is_missing(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(lines) == {"tiny", "toy", *PRESETS}
    assert "present" in lines["toy"]
    assert "1 missing" in lines["self-forcing"]
    assert "2 missing" in lines["longlive"]


def test_a_model_is_shown_with_origin_size_and_state_of_each_file(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "show", "longlive") == 0
    out = capsys.readouterr().out
    assert "Efficient-Large-Model/LongLive-1.3B/models/lora.pt (2.80 GB): missing" in out
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers (VAE, text encoder, tokenizer): present" in out
    assert "window 12" in out
    assert "14.0 GB of a GPU in bfloat16, 10.9 GB at the least" in out
    assert "tethercache:memory=5" in out


def test_the_words_of_a_small_world_are_listed(
    pipeline: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "show", pipeline) == 0
    words = " ".join(sorted(WORDS))
    assert f"words     {len(WORDS)}, and no others: {words}" in capsys.readouterr().out
    card = " ".join((SHIPPED["tiny"] / "README.md").read_text().split())
    assert run("models", "show", "tiny") == 0
    listed = capsys.readouterr().out.split("and no others: ")[1].strip()
    assert f"**all words:** {listed}" in card
    pieces = tmp_path / "pieces.json"
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(pieces))
    assert known_words(pieces) == []


def test_a_checkpoint_is_shown_by_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "show", toy_checkpoint(tmp_path / "toy.pt")) == 0
    out = capsys.readouterr().out
    assert "state dict `generator_ema`" in out
    assert "2 layers, width 24, 2 heads" in out


def test_a_converted_checkpoint_generates(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = toy_checkpoint(tmp_path / "toy.pt"), tmp_path / "converted"
    assert run("models", "convert", source, target, "--like", "toy") == 0
    assert f"use it with --model {target}" in capsys.readouterr().out
    options = ("--latent-frames", 3, "--policy", "fifo:window=3", "--json")
    hashes = []
    for model in ("toy", target):
        video = tmp_path / "video.mp4"
        assert run("generate", PROMPT, "--model", model, "-o", video, *options, "--overwrite") == 0
        hashes.append(read_sidecar(video).frames_hash)
    assert hashes[0] == hashes[1]


def test_a_preset_brings_its_policy(hub: Path, tmp_path: Path) -> None:
    assert run("generate", PROMPT, "--model", "toy", "-s", 1, "-o", tmp_path / "x.mp4") == 0
    sidecar = read_sidecar(tmp_path / "x.mp4")
    assert "memory=5" in sidecar.policy
    assert len(sidecar.model_hash) == 64


def test_a_folder_of_weights_serves_every_command(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_base(tmp_path / "weights" / BASE)
    toy_checkpoint(tmp_path / "weights/toy.pt")
    here = ("--weights-dir", tmp_path / "weights")
    video = tmp_path / "x.mp4"
    assert run("generate", PROMPT, "-m", "toy", "--latent-frames", 3, "-o", video, *here) == 0
    assert run("models", "show", "toy", *here) == 0
    assert f"present, {tmp_path / 'weights/toy.pt'}" in capsys.readouterr().out
    elsewhere = ("--weights-dir", tmp_path)
    assert run("generate", PROMPT, "-m", "toy", "-o", tmp_path / "y.mp4", *elsewhere) == 1
    assert "lacks `checkpoints/toy.pt` of somebody/toy-forcing" in capsys.readouterr().err


def test_failures_of_the_commands_are_one_line(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = toy_checkpoint(tmp_path / "toy.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "there").mkdir()
    convert = ("models", "convert")
    for arguments, status, message in (
        (("models", "show", "nothing"), 1, "no model at"),
        ((*convert, tmp_path / "empty.pt", tmp_path / "x"), 1, "is empty"),
        ((*convert, tmp_path / "no.pt", tmp_path / "x"), 1, "no checkpoint"),
        ((*convert, good, tmp_path / "there"), 2, "exists already"),
        ((*convert, good, tmp_path / "x", "--like", "tiny"), 2, "--like (tiny)"),
        ((*convert, good, tmp_path / "x", "--key", "critic"), 1, "no state dict `critic`"),
        ((*convert, good, tmp_path / "no/x"), 1, "no such folder"),
        (("generate", PROMPT, "-m", "self-forcing"), 1, "5.68 GB"),
        (("generate", PROMPT, "-m", "longlive", "-p", "fifo"), 2, "must not exceed the 12"),
        (("generate", PROMPT, "-m", "toy", "--vram", "much"), 2, "`vram` (much)"),
        (("generate", PROMPT, "-m", "toy", "--vram", "0"), 2, "`vram` (0)"),
        (("generate", PROMPT, "-m", "toy", "--vram", "0.0001"), 1, "are within `vram`"),
        (("generate", PROMPT, "-m", "toy", "--lora", "no.safetensors"), 1, "no LoRA at"),
        (("generate", PROMPT, "-m", "toy", "--prefix", tmp_path / "no.png"), 1, "no such video"),
        (("generate", PROMPT, "-m", "toy", "--prefix", good), 2, "cannot be read as a video"),
    ):
        assert run(*arguments) == status, arguments
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not (tmp_path / "x").exists()


def test_too_little_memory_is_refused_with_the_numbers_and_a_way_out(
    hub: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = measure(fetch(find("toy")))
    given = {"budget": 15, "hidden": 3, "element": 4, "overhead": 0}
    enough = estimate(sizes, **given, tiles=Tiles(), rotated=False).total
    monkeypatch.setattr(choice, "free_memory", lambda device: (enough, None))
    arguments = ("generate", PROMPT, "-m", "toy", "-p", "tethercache:memory=14")
    assert run(*arguments, "--dtype", "float32", "-o", tmp_path / "x.mp4") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "0.00 GB are free on cpu" in line
    assert "weights" in line
    assert "the policy tethercache:memory=8 needs" in line
    assert run(*arguments, "--latent-frames", 3, "-o", tmp_path / "x.mp4") == 0
    assert read_sidecar(tmp_path / "x.mp4").dtype == "bfloat16"


def test_a_lora_changes_the_video_and_is_recorded(pipeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="LoRA is an extra")
    layer = toy_transformer().blocks[0].attn1.to_q
    state = {
        "blocks.0.self_attn.q.lora_A.weight": torch.ones(1, layer.in_features),
        "blocks.0.self_attn.q.lora_B.weight": torch.ones(layer.out_features, 1),
    }
    save_file(state, tmp_path / "style.safetensors")
    hashes = []
    for scale in ("0", "1"):
        options = ("--lora", f"{tmp_path / 'style.safetensors'}:{scale}", "--latent-frames", 6)
        video = tmp_path / f"{scale}.mp4"
        assert run("generate", PROMPT, "-m", pipeline, "-o", video, *options) == 0
        sidecar = read_sidecar(video)
        assert sidecar.settings["loras"][0]["scale"] == float(scale)
        hashes.append(sidecar.frames_hash)
    assert hashes[0] != hashes[1]


def _clip(path: Path, frames: int, size: int = 16, rate: int = 16) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (frames, size, size, 3), dtype=np.uint8)
    if path.suffix == ".png":
        av.VideoFrame.from_ndarray(pixels[0], "rgb24").to_image().save(path)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.width = stream.height = size
        stream.pix_fmt = "rgb24"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("name", "frames", "chunks"), [("a.png", 1, (1, 3)), ("a.mp4", 12, (3,))])
def test_a_video_continues_a_clip_or_a_picture(
    name: str, frames: int, chunks: tuple[int, ...], pipeline: Path, tmp_path: Path
) -> None:
    video, prefix = tmp_path / "video.mp4", _clip(tmp_path / name, frames)
    options = ("--prefix", prefix, "--latent-frames", 9, "--policy", "fifo:window=15")
    assert run("generate", PROMPT, "-m", pipeline, "-o", video, *options) == 0
    assert probe(video).num_frames == 33
    sidecar = read_sidecar(video)
    assert sidecar.chunk_sizes[: len(chunks)] == chunks
    assert len(sidecar.settings["prefix"]["sha256"]) == 64

    # it is the video that the pipeline makes from the clip's last whole chunks
    pipe, hasher = toy_pipeline(), FrameHasher()
    latents = encode_prefix(pipe.vae, read_prefix(prefix), pipe.settings)
    assert latents.shape[2] == chunks[0]
    given = {"num_latent_frames": 9, "policy": Window(window=15), "prefix_latents": latents}
    for chunk in pipe.stream(PROMPT, **given):
        hasher.update(chunk[0])
    assert sidecar.frames_hash == hasher.frames_hash


def test_a_prefix_of_another_size_or_length_is_refused_before_anything_loads(
    tmp_path: Path,
    hub: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "tethercache.video.read_frames", lambda *_: pytest.fail("a frame was decoded")
    )
    large, long = _clip(tmp_path / "large.png", 1, size=32), _clip(tmp_path / "long.mp4", 60)
    for prefix, message in ((large, "is 32x32, but this model makes 16x16"), (long, "is longer")):
        assert run("generate", PROMPT, "-m", "toy", "--prefix", prefix, "--latent-frames", 6) == 2
        assert message in capsys.readouterr().err


def test_a_prefix_whose_frames_differ_is_refused(
    tmp_path: Path,
    hub: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = iter([np.zeros((16, 16, 3), np.uint8), np.zeros((32, 16, 3), np.uint8)])
    monkeypatch.setattr("tethercache.video.read_frames", lambda *_: decoded)
    clip = _clip(tmp_path / "clip.mp4", 9)
    assert run("generate", PROMPT, "-m", "toy", "--prefix", clip, "--latent-frames", 6) == 2
    assert "frames of several sizes" in capsys.readouterr().err


def test_a_damaged_lora_is_found_out_before_the_model_is_looked_for(
    tmp_path: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="LoRA is an extra")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    for name, message in (
        (tmp_path / "page.safetensors", "neither a safetensors nor a GGUF nor a PyTorch file"),
        ("x" * 300, "no LoRA at"),
    ):
        assert run("generate", PROMPT, "-m", "self-forcing", "--lora", name) == 1
        assert message in capsys.readouterr().err


def test_a_clip_of_another_rate_is_told_of(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-m", pipeline, "--latent-frames", 6, "--policy", "fifo:window=15", "--overwrite")
    for rate, warning in ((24, "24 frames a second and this model makes 16"), (16, "")):
        prefix = _clip(tmp_path / "clip.mp4", 9, rate=rate)
        assert run("generate", PROMPT, "--prefix", prefix, *options, "-o", tmp_path / "x.mp4") == 0
        said = capsys.readouterr().err
        assert warning in said
        assert bool(warning) == ("`prefix`" in said)


def test_the_doctor_says_what_is_here_and_what_can_run(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out
    assert "memory free" in out
    assert "native" in out
    assert "toy: present" in out
    assert "self-forcing: missing gdhe17/Self-Forcing/checkpoints/self_forcing_dmd.pt" in out
    assert "longlive with tethercache:memory=5: " in out
    assert "longlive-2 with tethercache:sink=8,memory=16,recent=8: " in out
    assert "Wan-AI/Wan2.2-TI2V-5B-Diffusers, for longlive-2: missing" in out
