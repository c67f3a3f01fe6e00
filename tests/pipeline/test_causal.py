"""The pipeline: prompt in, frames out, in one piece or streamed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.toys import toy_pipeline
from tethercache.backbones import attach
from tethercache.conditioning import encode_prompts
from tethercache.errors import DamagedModelError, MissingModelError
from tethercache.fit.execution import Execution, dispatched
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.video import StreamingDecoder, TileSize

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
    assert latents.shape == (1, 4, 13, 4, 4)  # the fewest that cover 48 frames
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
    options = {"policy": POLICY, "num_latent_frames": 12, "decode": False}
    latents = torch.cat(list(pipe.stream(PROMPT, prefix_latents=prefix, **options)), dim=2)
    assert latents.shape[2] == 12
    assert torch.equal(latents[:, :, :6], prefix)
    assert not torch.equal(latents, torch.cat(list(pipe.stream(PROMPT, **options)), dim=2))


NAN = torch.zeros(1, 4, 3, 4, 4)
NAN[0, 1, 2, 3, 0] = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "`prompt` must not be empty"),
        ({"prompt": []}, "`prompt` must not be empty"),
        ({"prompt": 3}, r"`prompt` \(3\) must be a text or a list of texts"),
        ({"prompt": [PROMPT, None]}, r"`prompt` \(None\) must be a text"),
        ({"samples": [0, 1]}, r"`samples` \(2\) must be as many as videos \(1\)"),
        ({"samples": []}, r"`samples` \(0\) must be as many as videos"),
        ({"samples": 1}, r"`samples` \(1\) must be a list of whole numbers"),
        ({"samples": np.array(3)}, r"`samples` \(array\(3\)\) must be a list of whole numbers"),
        ({"prompt": np.array(3)}, "must be a text or a list of texts"),
        ({"prompt_embeds": torch.ones(1, 6, 8).to_sparse()}, "must be a plain tensor"),
        ({"prompt_embeds": torch.ones(1, 6, 8, device="meta")}, "must be a plain tensor"),
        ({"samples": [-1]}, r"`samples\[0\]` \(-1\) must be a whole number from 0"),
        ({"samples": [0.0]}, r"`samples\[0\]` \(0.0\) must be a whole number"),
        ({"seed": 1.5}, r"`seed` \(1.5\) must be a whole number"),
        ({"seed": True}, r"`seed` \(True\) must be a whole number"),
        ({"seed": 2**64}, r"`seed` \(18446744073709551616\) must be a whole number from -9"),
        ({"seed": "1"}, r"`seed` \('1'\) must be a whole number"),
        ({"num_seconds": -1}, "must be a positive number"),
        ({"num_seconds": float("nan")}, r"`num_seconds` \(nan\) must be a positive number"),
        ({"num_seconds": float("inf")}, "must be a positive number"),
        ({"num_seconds": "3"}, r"`num_seconds` \('3'\) must be a positive number"),
        ({"num_seconds": True}, "must be a positive number"),
        ({"num_seconds": 0.01}, "less than one frame"),
        ({"num_latent_frames": 3}, "one of the two"),
        ({"num_seconds": None, "num_latent_frames": 3.0}, r"\(3.0\) must be a whole number"),
        ({"num_seconds": None, "num_latent_frames": 0}, "of at least 1"),
        ({"policy": "sinc"}, "unknown policy `sinc`; did you mean `sink`"),
        ({"policy": 3}, r"`policy` \(3\) must be a policy or a spec of tethercache"),
        ({"policy": Window}, "must be a policy or a spec"),
        ({"keep_rotated": 1}, r"`keep_rotated` \(1\) must be True or False"),
        ({"decode": "no"}, r"`decode` \('no'\) must be True or False"),
        ({"tile": 256}, r"`tile` \(256\) must be a `TileSize`"),
        ({"tile": TileSize(10, 10, 10, 10)}, r"`tile.height` \(10\) must be a multiple of 4"),
        ({"execution": "fast"}, r"`execution` \('fast'\) must be an `Execution`"),
        (
            {"prompt_embeds": torch.zeros(2, 6, 8)},
            r"`prompt_embeds` \(2, 6, 8\) must be \[1, L, 8\]",
        ),
        (
            {"prompt_embeds": torch.zeros(1, 6, 9)},
            r"`prompt_embeds` \(1, 6, 9\) must be \[1, L, 8\]",
        ),
        ({"prompt_embeds": torch.zeros(1, 0, 8)}, r"must be \[1, L, 8\]"),
        ({"prompt_embeds": torch.zeros(6, 8)}, r"must be \[1, L, 8\]"),
        ({"prompt_embeds": torch.zeros(1, 6, 8).long()}, "must be of a floating-point dtype"),
        ({"prompt_embeds": torch.full((1, 6, 8), torch.inf)}, r"holds 48 .* first at \[0, 0, 0\]"),
        ({"prompt_embeds": [1.0]}, r"`prompt_embeds` \(\[1.0\]\) must be a tensor"),
        (
            {"prompt": [PROMPT] * 2, "prefix_latents": torch.zeros(1, 4, 3, 4, 4)},
            r"`prefix_latents` .1, 4, 3, 4, 4. must be .2, 4, F, 4, 4.",
        ),
        ({"prefix_latents": torch.zeros(1, 4, 3, 8, 4)}, "must be .1, 4, F, 4, 4."),
        ({"prefix_latents": torch.zeros(4, 3, 4, 4)}, "must be .1, 4, F, 4, 4."),
        ({"prefix_latents": torch.zeros(1, 4, 0, 4, 4)}, "must be .1, 4, F, 4, 4."),
        (
            {"prefix_latents": NAN},
            r"`prefix_latents` .* holds 1 .*, the first at \[0, 1, 2, 3, 0\]",
        ),
    ],
)
def test_mistakes_are_named_at_the_call(
    pipe: CausalVideoPipeline, options: dict[str, object], message: str
) -> None:
    options = {"policy": POLICY, "num_seconds": 3} | options
    with pytest.raises(ValueError, match=message):
        pipe.stream(options.pop("prompt", PROMPT), **options)  # nothing is asked for yet


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 100}, r"`height` \(100\) must be a multiple of 8 pixels"),
        ({"height": 4}, r"`height` \(4\) must be a multiple of 8 pixels"),
        ({"width": 60}, r"`width` \(60\) must be a multiple of 8 pixels"),
        ({"height": 0}, r"`height` \(0\) must be a whole number from 1"),
        ({"width": 16.0}, r"`width` \(16.0\) must be a whole number"),
        ({"chunk_size": "3"}, r"`chunk_size` \('3'\) must be a whole number"),
        ({"sigmas": [1.0, float("nan")]}, r"`sigmas\[1\]` \(nan\) must be a finite number"),
        ({"sigmas": []}, "`sigmas` must be 1 to"),
        ({"sigmas": [0.5, 0.75]}, "`sigmas` .* must fall"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_named(
    size: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_pipeline(**size).stream(PROMPT, num_seconds=1)


def test_a_policy_may_be_a_spec_wherever_one_is_taken(pipe: CausalVideoPipeline) -> None:
    expected = stream(pipe, policy=Window(window=6))
    assert torch.equal(stream(pipe, policy="fifo:window=6"), expected)
    video = pipe(PROMPT, policy="fifo:window=6", num_seconds=3, output_type="pt").frames
    assert torch.equal(video.permute(0, 1, 3, 4, 2).mul(255).round().byte(), expected)
    rollout = pipe.rollout(PROMPT, policy="fifo:window=6", num_seconds=3)
    assert rollout.session.policy == Window(window=6)
    with attach(pipe.transformer, "fifo:window=6") as session:
        assert session.policy == Window(window=6)


def test_numbers_of_numpy_and_torch_are_numbers(pipe: CausalVideoPipeline) -> None:
    given = {"seed": np.int64(3), "samples": np.array([2]), "num_seconds": np.float32(3)}
    assert torch.equal(stream(pipe, **given), stream(pipe, seed=3, samples=[2]))
    assert torch.equal(stream(pipe, seed=torch.tensor(3)), stream(pipe, seed=3))


@pytest.mark.parametrize("length", [1, 3, 4, 10])
def test_latents_are_as_many_as_asked_for(pipe: CausalVideoPipeline, length: int) -> None:
    options = {"policy": POLICY, "num_latent_frames": length}
    assert pipe(PROMPT, output_type="latent", **options).frames.shape[2] == length
    assert stream(pipe, num_seconds=None, **options).shape[1] == 4 * length - 3


def test_embeddings_are_converted_to_the_dtype_of_the_transformer() -> None:
    small = toy_pipeline().to(torch.bfloat16)
    embeds = small.encode_prompt([PROMPT])
    expected = stream(small, prompt_embeds=embeds)
    assert torch.equal(stream(small, prompt_embeds=embeds.float()), expected)
    small.register_modules(text_encoder=None)
    with pytest.raises(ValueError, match="`prompt_embeds` must be given"):
        small.stream(PROMPT, num_seconds=3)


def test_no_step_keeps_gradients() -> None:
    pipe = toy_pipeline()
    pipe.transformer.requires_grad_(True)
    for chunk in pipe.rollout(PROMPT, policy=POLICY, num_latent_frames=6):
        assert not chunk.requires_grad


def test_a_text_encoder_may_be_offloaded(pipe: CausalVideoPipeline) -> None:
    """Its weights wait on the host, its answer comes from an accelerator; `meta` stands in."""
    encoder = copy.deepcopy(pipe.text_encoder)
    encoder.register_forward_hook(lambda module, given, states: (states[0].to("meta"),))
    embeds = encode_prompts(pipe.tokenizer, encoder, [PROMPT], length=8)
    assert embeds.device.type == "meta"
    assert embeds.shape == (1, 8, encoder.config.d_model)


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


ONE_BY_ONE, OVERLAPPED = Execution(overlap="off"), Execution(overlap="on")


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_decoding_beside_denoising_changes_no_bit(pipe: CausalVideoPipeline) -> None:
    options = {"prompt": [PROMPT, "a blue ball"], "num_seconds": 3.3}
    expected = stream(pipe, execution=ONE_BY_ONE, **options)
    assert torch.equal(stream(pipe, execution=OVERLAPPED, **options), expected)
    assert not decoding_threads()


@pytest.mark.parametrize("execution", [ONE_BY_ONE, OVERLAPPED], ids=["one by one", "overlapped"])
def test_an_error_of_the_decoder_reaches_the_caller_and_restores_the_model(
    pipe: CausalVideoPipeline, monkeypatch: pytest.MonkeyPatch, execution: Execution
) -> None:
    calls = []
    decode = StreamingDecoder.decode

    def fail(self: StreamingDecoder, latents: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("the decoder failed")
        return decode(self, latents)

    monkeypatch.setattr(StreamingDecoder, "decode", fail)
    with pytest.raises(OSError, match="the decoder failed"):
        stream(pipe, execution=execution)
    assert not decoding_threads()
    assert not pipe.transformer._forward_pre_hooks


def test_a_stream_that_is_closed_early_leaves_no_thread_and_no_hook(
    pipe: CausalVideoPipeline,
) -> None:
    frames: Iterator[Tensor] = pipe.stream(
        PROMPT, policy=POLICY, num_seconds=600, execution=OVERLAPPED
    )
    next(frames)
    assert decoding_threads()
    assert pipe.transformer._forward_pre_hooks
    frames.close()  # type: ignore[attr-defined]
    assert not decoding_threads()
    assert not pipe.transformer._forward_pre_hooks


def test_compiled_code_and_an_overlap_go_together(
    pipe: CausalVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    of_module, of_decoder = torch.nn.Module.compile, torch.compile
    eager = {"backend": "eager"}  # traced, but no code is generated
    monkeypatch.setattr(torch.nn.Module, "compile", lambda m, **o: of_module(m, **o | eager))
    monkeypatch.setattr(torch, "compile", lambda m, **o: of_decoder(m, **o | eager))
    expected = stream(pipe, num_seconds=1.5)
    both = Execution(compile=True, overlap="on")
    assert torch.equal(stream(pipe, num_seconds=1.5, execution=both), expected)
    assert torch.equal(stream(pipe, num_seconds=1.5, execution=both), expected)


def test_a_preview_has_the_same_frames_roughly(pipe: CausalVideoPipeline) -> None:
    real = stream(pipe)
    preview = stream(pipe, execution=Execution(decoder="preview"))
    assert preview.shape == real.shape
    assert torch.equal(preview[:, :9], real[:, :9])
    assert not torch.equal(preview[:, 9:], real[:, 9:])
    assert torch.equal(preview[:, 9], preview[:, 12])


def test_the_vae_may_have_a_format_of_its_own() -> None:
    mixed = toy_pipeline()
    expected = stream(mixed)
    mixed.vae.to(torch.bfloat16)
    assert (stream(mixed).int() - expected.int()).abs().float().mean() < 2


def test_a_backend_that_the_caller_has_set_is_left_alone(pipe: CausalVideoPipeline) -> None:
    processors = pipe.transformer.attn_processors.values()
    like = torch.zeros(1)
    assert dispatched(pipe.transformer, "auto", like) == "native"
    for processor in processors:
        processor._attention_backend = "_native_math"
    try:
        assert dispatched(pipe.transformer, "auto", like) is None
        assert dispatched(pipe.transformer, "native", like) == "native"
    finally:
        for processor in processors:
            processor._attention_backend = None


@pytest.mark.gpu
def test_overlapping_on_a_gpu_changes_no_bit() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    pipe = toy_pipeline().to("cuda")
    assert torch.equal(stream(pipe, execution=OVERLAPPED), stream(pipe, execution=ONE_BY_ONE))


@pytest.mark.gpu
def test_it_runs_in_bfloat16_on_an_accelerator() -> None:
    if not torch.accelerator.is_available():
        pytest.skip("no accelerator here")
    device = torch.accelerator.current_accelerator()
    pipe = toy_pipeline().to(device, torch.bfloat16)
    assert stream(pipe).shape == (1, 48, 16, 16, 3)


def test_it_runs_in_bfloat16(pipe: CausalVideoPipeline) -> None:
    assert stream(toy_pipeline().to(torch.bfloat16)).shape == (1, 48, 16, 16, 3)
