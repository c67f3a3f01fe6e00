"""A pipeline with the structure of the original code gives the golden latents when attached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.backbones.original import Pipeline
from tests.models.checkpoints.made import GOLDEN, official
from tethercache.backbones import SessionError, attach_pipeline
from tethercache.cache import Bank, Fused, Pass, PassKind, View
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window

SIGMAS = [1.0, 0.9375, 5 / 6, 0.625]
SMALL = TetherCache(sink=1, memory=2, recent=3)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    with safe_open(GOLDEN / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    made = Pipeline(config, SIGMAS)
    made.generator.load_state_dict(official(), strict=True)
    return made


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return load_file(GOLDEN / "inputs.safetensors")


def run(pipeline: Pipeline, inputs: dict[str, Tensor], frames: int = 12, prefix: int = 0) -> Tensor:
    return pipeline.inference(
        inputs["noise"][:, :frames],
        inputs["prompt_embeds"],
        inputs["renoise"],
        inputs["initial_latent"][:, :prefix] if prefix else None,
    )


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("run_tc_main", TetherCache()),
        ("run_fifo_s3", Window(sink=3, window=21, positions="absolute")),
    ],
)
def test_an_attached_pipeline_gives_what_the_official_code_gave(
    name: str, policy: TetherCache | Window, pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    expected = load_file(GOLDEN / f"{name}.safetensors")["latents"]
    with attach_pipeline(pipeline, policy) as session:
        latents = run(pipeline, inputs, frames=expected.shape[1])
        assert session.committed == expected.shape[1]
    assert (latents - expected).abs().max() < 1e-5


def test_every_video_begins_afresh_and_can_have_a_prefix(
    pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    with attach_pipeline(pipeline, SMALL) as session:
        first = run(pipeline, inputs)
        assert torch.equal(run(pipeline, inputs), first)
        longer = run(pipeline, inputs, prefix=3)
        assert session.committed == 15
        assert torch.equal(longer[:, :3], inputs["initial_latent"][:, :3])
        assert not torch.allclose(longer[:, 3:], first, atol=1e-2)
    with attach_pipeline(pipeline, SMALL):
        assert torch.equal(run(pipeline, inputs, prefix=3), longer)


def test_everything_is_as_before_on_exit(pipeline: Pipeline, inputs: dict[str, Tensor]) -> None:
    own = run(pipeline, inputs)  # so that it has caches
    mine, allocated = pipeline.kv_cache1, pipeline.allocated
    before = {name: t.clone() for name, t in pipeline.generator.state_dict().items()}
    attributes = {name: value for name, value in vars(pipeline).items() if name != "generator"}
    with pytest.raises(RuntimeError, match="size"), attach_pipeline(pipeline, SMALL):
        run(pipeline, inputs | {"renoise": inputs["renoise"][..., :1, :3]})
    assert pipeline.kv_cache1 is mine
    assert all(cache["global_end_index"] == 12 * 20 for cache in mine)
    assert {n: v for n, v in vars(pipeline).items() if n != "generator"} == attributes
    for block in pipeline.generator.model.blocks:
        assert "forward" not in vars(block.self_attn)
    assert "forward" not in vars(pipeline.generator)
    assert all(torch.equal(t, before[n]) for n, t in pipeline.generator.state_dict().items())
    assert torch.equal(run(pipeline, inputs), own)
    pipeline.kv_cache1 = None
    with attach_pipeline(pipeline, SMALL):
        run(pipeline, inputs)
    assert pipeline.allocated == allocated  # its own cache, which nobody would read, is never made
    assert pipeline.kv_cache1 is None


@pytest.mark.parametrize("prefix", [0, 3])
def test_an_interrupted_video_does_not_reach_into_the_next(
    prefix: int, pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    def interrupt(*args: object) -> None:
        left.pop()
        if not left:
            raise KeyboardInterrupt

    with attach_pipeline(pipeline, SMALL):
        expected = run(pipeline, inputs, prefix=prefix)
        first = len(SIGMAS) + 1  # passes of the first chunk
        for calls in (1, 2, first - 1, first, first + 2):
            left = [None] * calls
            hook = pipeline.generator.model.blocks[1].register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(pipeline, inputs)
            hook.remove()
            assert torch.equal(run(pipeline, inputs, prefix=prefix), expected)


class Loop:
    """Calls of the generator one by one."""

    def __init__(self, pipeline: Pipeline, inputs: dict[str, Tensor]) -> None:
        self.pipeline, self.inputs = pipeline, inputs

    def __call__(self, frame: int, timestep: float, *, frames: int = 3) -> Tensor:
        tokens = self.inputs["noise"].shape[3] * self.inputs["noise"].shape[4] // 4
        with torch.no_grad():
            return self.pipeline.generator(
                self.inputs["noise"][:, frame : frame + frames],
                {"prompt_embeds": self.inputs["prompt_embeds"]},
                torch.full((1, frames), float(timestep)),
                kv_cache=[None] * 3,
                current_start=frame * tokens,
            )

    def chunk(self, frame: int) -> Tensor:
        flow = [self(frame, 1000 * sigma) for sigma in SIGMAS][-1]
        self(frame, 0)
        return flow

    def failing(self, *arguments: float) -> None:
        def fail(*_: object) -> None:
            hook.remove()
            raise KeyboardInterrupt

        hook = self.pipeline.generator.model.blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            self(*arguments)


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("chunk", [0, 3])
def test_a_call_that_failed_is_refused_again_or_made_exactly(
    chunk: int, passes: int, pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    loop = Loop(pipeline, inputs)
    timesteps = [*(1000 * sigma for sigma in SIGMAS), 0.0]
    with attach_pipeline(pipeline, SMALL) as session:
        first, expected = loop.chunk(0), loop.chunk(3)
        if chunk:
            assert torch.equal(loop.chunk(0), first)
        for timestep in timesteps[:passes]:
            loop(chunk, timestep)
        loop.failing(chunk, timesteps[passes])
        assert session.committed == chunk
        if chunk == 0 and passes in (0, len(SIGMAS)):  # the start again, or clean latents first
            for timestep in timesteps[passes:]:
                loop(chunk, timestep)
        else:
            with pytest.raises(SessionError, match="failed half-way"):
                loop(chunk, timesteps[passes])
            assert torch.equal(loop.chunk(0), first)
        assert torch.equal(loop.chunk(3), expected)


def test_a_context_pass_that_failed_does_not_count(
    pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    loop = Loop(pipeline, inputs)
    with attach_pipeline(pipeline, SMALL) as session:
        loop.chunk(0)
        for sigma in SIGMAS:
            loop(3, 1000 * sigma)
        loop.failing(3, 0)
        with pytest.raises(SessionError, match="failed half-way"):
            loop(6, 1000)
        assert session.committed == 3


def test_a_pass_that_is_made_twice_is_refused(
    pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    loop = Loop(pipeline, inputs)
    with attach_pipeline(pipeline, SMALL):
        loop.chunk(0)
        loop(3, 1000)
        with pytest.raises(SessionError, match="no pass can be made again"):
            loop(3, 1000)


def test_a_pipeline_is_attached_once(pipeline: Pipeline, inputs: dict[str, Tensor]) -> None:
    with attach_pipeline(pipeline, SMALL):
        with (
            pytest.raises(SessionError, match="attached already"),
            attach_pipeline(pipeline, SMALL),
        ):
            pass
        run(pipeline, inputs)
    with attach_pipeline(pipeline, SMALL):
        run(pipeline, inputs)


def test_calls_that_do_not_follow_raise(pipeline: Pipeline, inputs: dict[str, Tensor]) -> None:
    def call(frame: int, frames: int = 3, timestep: float = 1000.0) -> None:
        pipeline.generator(
            inputs["noise"][:, :frames],
            {"prompt_embeds": inputs["prompt_embeds"]},
            torch.full((1, frames), timestep),
            kv_cache=[None] * 3,
            current_start=frame * inputs["noise"].shape[3] * inputs["noise"].shape[4] // 4,
        )

    with attach_pipeline(pipeline, SMALL), torch.no_grad():
        call(0)
        with pytest.raises(SessionError, match="3 frames was called with 2"):
            call(0, frames=2, timestep=900)
        with pytest.raises(SessionError, match="at latent frame 6, but 0 are committed"):
            call(6)
    with attach_pipeline(pipeline, Window(window=9)), torch.no_grad():
        call(0, timestep=0)
        call(3, timestep=0)
        with pytest.raises(ValueError, match="larger than"):
            call(6, frames=4)


class Told(Window):
    """A window that notes what its passes were told."""

    def see(self, bank: Bank, pass_: Pass) -> View | Fused:
        told.append(pass_)
        return super().see(bank, pass_)


told: list[Pass] = []


def test_a_policy_is_told_of_layers_and_steps_as_anywhere(
    pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    told.clear()
    with attach_pipeline(pipeline, Told()):
        run(pipeline, inputs, frames=3)
    blocks, steps = len(pipeline.generator.model.blocks), len(SIGMAS)
    kinds = [PassKind.DENOISING] * steps + [PassKind.CONTEXT]
    assert told == [
        Pass(kind, step, steps, layer, blocks)
        for step, kind in enumerate(kinds)
        for layer in range(blocks)
    ]


def test_a_call_of_another_size_is_refused_and_changes_nothing(
    pipeline: Pipeline, inputs: dict[str, Tensor]
) -> None:
    loop = Loop(pipeline, inputs)
    other = Loop(pipeline, {name: t.repeat(2, *[1] * (t.dim() - 1)) for name, t in inputs.items()})
    with attach_pipeline(pipeline, SMALL):
        loop.chunk(0)
        expected = loop.chunk(3)
        loop.chunk(0)
        with pytest.raises(ValueError, match="of a stream cannot change"):
            other(3, 1000)
        assert torch.equal(loop.chunk(3), expected)


def test_another_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"generator\.model\.blocks"), attach_pipeline(3, SMALL):
        pass
