"""One pipeline, several streams, and what becomes of numbers that are none."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toys import toy_pipeline
from tethercache.cli import main
from tethercache.conditioning import encode_frames
from tethercache.errors import NotFiniteError
from tethercache.fit.execution import Execution
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import Plan, Rollout
from tethercache.video import TileSize, probe

PROMPT = "a red ball rolling over grass"
ONE_BY_ONE, OVERLAPPED = Execution(overlap="off"), Execution(overlap="on")
RUNS: list[dict[str, Any]] = [
    {"policy": TetherCache(1, 2, 3), "seed": 1, "execution": OVERLAPPED},
    {"policy": Window(sink=1, window=6), "seed": 2, "execution": ONE_BY_ONE},
    {
        "policy": TetherCache(1, 2, 3),
        "seed": 3,
        "prompt": [PROMPT, "a blue ball"],
        "execution": OVERLAPPED,
        "tile": TileSize(8, 8, 4, 4),
    },
]


@pytest.fixture(scope="module")
def pipe() -> CausalVideoPipeline:
    return toy_pipeline()


@pytest.fixture(scope="module")
def alone(pipe: CausalVideoPipeline) -> list[Tensor]:
    return [torch.cat(list(start(pipe, run)), dim=1) for run in RUNS]


def start(pipe: CausalVideoPipeline, run: dict[str, Any]) -> Iterator[Tensor]:
    return pipe.stream(**{"prompt": PROMPT, "num_seconds": 2} | run)


def test_interleaved_streams_give_what_each_gives_alone(
    pipe: CausalVideoPipeline, alone: list[Tensor]
) -> None:
    together = zip(*zip(*(start(pipe, run) for run in RUNS), strict=True), strict=True)
    for frames, expected in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(frames, dim=1), expected)
    assert not pipe.transformer._forward_pre_hooks


def test_streams_in_threads_give_what_each_gives_alone(
    pipe: CausalVideoPipeline, alone: list[Tensor]
) -> None:
    ready = threading.Barrier(len(RUNS))

    def make(run: dict[str, Any]) -> Tensor:
        ready.wait()
        return torch.cat(list(start(pipe, run)), dim=1)

    with ThreadPoolExecutor(len(RUNS)) as threads:
        for frames, expected in zip(threads.map(make, RUNS), alone, strict=True):
            assert torch.equal(frames, expected)
    assert not pipe.transformer._forward_pre_hooks


def test_a_stream_may_go_from_thread_to_thread(
    pipe: CausalVideoPipeline, alone: list[Tensor]
) -> None:
    """As web servers do with generators."""
    frames, parts = start(pipe, RUNS[0]), []
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            parts.append(thread.submit(next, frames).result())
    assert torch.equal(torch.cat(parts, dim=1), alone[0])


def test_a_held_stream_is_in_nobodys_way(
    pipe: CausalVideoPipeline, alone: list[Tensor], tmp_path: Path
) -> None:
    held = start(pipe, RUNS[0])
    parts = [next(held)]
    names = list(pipe.transformer.state_dict())
    for run, expected in zip(RUNS, alone, strict=True):
        assert torch.equal(torch.cat(list(start(pipe, run)), dim=1), expected)
    pipe.save_pretrained(tmp_path)  # under the names that it always has
    assert torch.equal(torch.cat([*parts, *held], dim=1), alone[0])
    assert list(pipe.transformer.state_dict()) == names
    loaded = CausalVideoPipeline.from_pretrained(tmp_path)
    assert torch.equal(torch.cat(list(start(loaded, RUNS[1])), dim=1), alone[1])


def test_a_stream_that_is_forgotten_leaves_the_model_as_it_was(pipe: CausalVideoPipeline) -> None:
    forgotten = start(pipe, RUNS[1])
    next(forgotten)
    assert pipe.transformer._forward_pre_hooks
    del forgotten
    gc.collect()
    assert not pipe.transformer._forward_pre_hooks


def test_a_compiled_transformer_takes_the_place_of_the_plain_one(alone: list[Tensor]) -> None:
    torch.compiler.reset()
    pipe = toy_pipeline()
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    for run, expected in zip(RUNS[:2], alone, strict=False):
        assert torch.equal(torch.cat(list(start(pipe, run)), dim=1), expected)


def test_the_scheduler_stays_as_it_is(pipe: CausalVideoPipeline) -> None:
    before = dict(vars(pipe.scheduler))
    list(start(pipe, RUNS[1] | {"latents": True}))
    assert all(vars(pipe.scheduler)[name] is value for name, value in before.items())


# Numbers that are none --------------------------------------------------------------------


@contextmanager
def spoilt(module: nn.Module, call: int, value: float = float("nan")) -> Iterator[None]:
    """Let one number of what a module makes in one of its calls be none."""
    calls = []

    def spoil(module: nn.Module, given: object, made: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            tensor = made if isinstance(made, Tensor) else made[0]
            tensor.view(-1)[-1] = value

    hook = module.register_forward_hook(spoil)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("execution", [ONE_BY_ONE, OVERLAPPED], ids=["one by one", "overlapped"])
def test_a_transformer_that_makes_no_numbers_is_named_with_chunk_and_pass(
    pipe: CausalVideoPipeline, execution: Execution, value: float
) -> None:
    passes = len(pipe.config.sigmas) + 1
    made = []
    with (
        spoilt(pipe.transformer.patch_embedding, 2 * passes + 2, value),
        pytest.raises(NotFiniteError, match=r"transformer made .* in chunk 3, .* pass 2 of 4"),
    ):
        made.extend(start(pipe, RUNS[0] | {"execution": execution, "num_seconds": 3}))
    assert sum(frames.shape[1] for frames in made) >= 9
    assert not pipe.transformer._forward_pre_hooks


def test_a_context_pass_that_makes_no_numbers_is_found_in_the_next_chunk(
    pipe: CausalVideoPipeline,
) -> None:
    passes = len(pipe.config.sigmas) + 1
    with (
        spoilt(pipe.transformer.patch_embedding, passes),
        pytest.raises(NotFiniteError, match="chunk 2, denoising pass 1 of 4"),
    ):
        list(start(pipe, RUNS[1]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("decoder", ["vae", "preview"])
def test_a_decoder_that_makes_no_numbers_is_named(
    pipe: CausalVideoPipeline, value: float, decoder: str
) -> None:
    with (
        spoilt(pipe.vae.decoder, 2, value),
        pytest.raises(NotFiniteError, match=r"decoder made .* in latent frame 2"),
    ):
        list(start(pipe, {"execution": Execution(decoder=decoder)}))


def test_a_text_encoder_that_makes_no_numbers_is_named_with_the_prompt(
    pipe: CausalVideoPipeline,
) -> None:
    with (
        spoilt(pipe.text_encoder.encoder.final_layer_norm, 1),
        pytest.raises(NotFiniteError, match=r"text encoder made .* in prompt 2"),
    ):
        list(start(pipe, {"prompt": [PROMPT, "a blue ball"]}))


def test_an_encoder_of_a_prefix_that_makes_no_numbers_is_named(pipe: CausalVideoPipeline) -> None:
    frames = torch.zeros(9, 16, 16, 3, dtype=torch.uint8)
    with (
        spoilt(pipe.vae.encoder, 2),
        pytest.raises(NotFiniteError, match=r"encoder made .* in latent frame 2"),
    ):
        encode_frames(pipe.vae, frames)


def test_float16_is_named_as_a_cause() -> None:
    error = NotFiniteError("decoder", "latent frame 1", torch.float16)
    assert "float16 ends at 65504" in str(error)


def test_a_prefix_must_be_finite(pipe: CausalVideoPipeline) -> None:
    prefix = torch.full((1, 4, 3, 4, 4), 1e30)
    embeds = torch.zeros(1, 8, 8, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"`prefix` must be finite in torch\.float16"):
        Rollout(
            pipe.transformer,
            None,  # type: ignore[arg-type]
            Plan(6, prefix=3),
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            embeds,
            latent_size=(4, 4),
            prefix=prefix,
        )


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_damaged_weights_end_generate_with_a_line_and_status_1(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = toy_pipeline()
    weights = {
        "transformer": pipe.transformer.blocks[1].ffn.net[2].weight,
        "vae": pipe.vae.decoder.conv_out.weight,
        "text_encoder": pipe.text_encoder.encoder.block[0].layer[0].SelfAttention.v.weight,
    }
    with torch.no_grad():
        weights[part].view(-1)[0] = float("nan")
    pipe.save_pretrained(tmp_path / "model")
    assert _generate(tmp_path) == 1
    assert "made NaN or infinity in" in _error(capsys)
    assert not (tmp_path / "video.mp4").exists()


def test_what_was_made_before_numbers_went_wrong_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    load = CausalVideoPipeline.from_pretrained

    with ExitStack() as undo:

        def load_spoilt(*arguments: Any, **options: Any) -> Any:
            pipe = load(*arguments, **options)
            undo.enter_context(spoilt(pipe.vae.decoder, 5))
            return pipe

        monkeypatch.setattr(CausalVideoPipeline, "from_pretrained", load_spoilt)
        assert _generate(tmp_path) == 1
    assert "decoder made NaN or infinity in latent frame 5" in _error(capsys)
    assert not (tmp_path / "video.mp4").exists()
    assert probe(tmp_path / "video.partial.mp4").num_frames == 9


def _generate(folder: Path) -> int:
    arguments = [PROMPT, "--seconds", "1", "--policy", "tethercache:sink=1,memory=2,recent=3"]
    arguments += ["--model", str(folder / "model"), "-o", str(folder / "video.mp4")]
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line
