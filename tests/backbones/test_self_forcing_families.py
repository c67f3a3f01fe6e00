"""Pipelines of every family, used as their authors do, on an object that has never run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.backbones.original import Guided, InfinityRope, Loop, Pipeline, RollingSink
from tests.golden.runner import load_transformer
from tests.models.checkpoints.made import GOLDEN, official
from tethercache.backbones import attach, attach_pipeline, float64_sinusoid
from tethercache.cache import Bank, Event, Policy, Switch
from tethercache.errors import SessionError
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window

SIGMAS = [1.0, 0.9375, 5 / 6, 0.625]
WHOLE = Window(window=21, positions="absolute")
SMALL = TetherCache(sink=1, memory=2, recent=3)
TOLERANCE = 1e-5


def build(kind: type[Loop], **options: Any) -> Any:
    with safe_open(GOLDEN / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    made = kind(config, SIGMAS, **options)
    made.generator.load_state_dict(official(), strict=True)
    return made


class Inputs:
    """Two different samples, or one."""

    def __init__(self, batch: int, frames: int = 12) -> None:
        stored = load_file(GOLDEN / "inputs.safetensors")
        noise, prompt = stored["noise"], stored["prompt_embeds"]
        self.noise = torch.cat((noise, noise.flip(1)))[:batch, :frames]
        self.prompt = torch.cat((prompt, prompt.flip(1)))[:batch]
        self.other = self.prompt.flip(2)
        self.renoise = stored["renoise"]
        self.prefix = torch.cat((stored["initial_latent"],) * 2)[:batch, :3]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(1, frames=6)


def family(name: str) -> Any:
    return {
        "self-forcing": lambda: build(Pipeline),
        "reward-forcing": lambda: build(Pipeline, context_noise=100),
        "causal-forcing++": lambda: build(Pipeline, first_sigmas=[1.0, 0.5]),
        "causal-forcing++ with context noise": lambda: build(
            Pipeline, first_sigmas=[1.0, 0.9, 0.8, 0.5, 0.2], context_noise=100
        ),
        "rolling-sink": lambda: build(RollingSink),
        "infinity-rope": lambda: build(InfinityRope),
        "longlive": lambda: build(Pipeline, updates=True),
    }[name]()


FAMILIES = [
    "self-forcing",
    "reward-forcing",
    "causal-forcing++",
    "causal-forcing++ with context noise",
    "rolling-sink",
    "infinity-rope",
    "longlive",
]


def run(pipeline: Any, inputs: Inputs, prefix: bool = False) -> Tensor:
    prompt: Any = inputs.prompt
    if isinstance(pipeline, InfinityRope):
        prompt = [inputs.prompt] * (inputs.noise.shape[1] // 3)
    start = inputs.prefix if prefix else None
    latents: Tensor = pipeline.inference(inputs.noise, prompt, inputs.renoise, start)
    return latents


@torch.no_grad()
def converted(pipeline: Any, policy: Policy, inputs: Inputs, prefix: bool = False) -> Tensor:
    """The same video by diffusers' transformer with the same weights, and a declared loop."""
    transformer, made = load_transformer(GOLDEN), []
    zeros = torch.zeros(len(inputs.noise))
    with float64_sinusoid(transformer), attach(transformer, policy, chunk_size=3) as session:

        def flow(x: Tensor, timestep: float) -> Tensor:
            latents, times = x.transpose(1, 2), zeros + timestep
            return transformer(latents, times, inputs.prompt).sample.transpose(1, 2)

        if prefix:
            with session.chunk(3), session.context_pass():
                flow(inputs.prefix, 0)
            made.append(inputs.prefix)
        for number, x in enumerate(inputs.noise.split(3, dim=1)):
            first = pipeline.first_sigmas is not None and number == 0
            sigmas = pipeline.first_sigmas if first else SIGMAS
            with session.chunk(3, len(sigmas)):
                for step, sigma in enumerate(sigmas):
                    if step:
                        again = inputs.renoise[None, number, (step - 1) % 3]
                        x = (1 - sigma) * x + sigma * again
                    with session.denoising_pass():
                        x = x - sigma * flow(x, 1000 * sigma)
                with session.context_pass():
                    flow(x, pipeline.context_noise)
            made.append(x)
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_that_has_never_run_gives_its_own_video_within_the_window(
    name: str, batch: int
) -> None:
    inputs = Inputs(batch, frames=9)
    own, pipeline = run(family(name), inputs), family(name)
    before, generator = dict(vars(pipeline)), pipeline.generator
    with attach_pipeline(pipeline, WHOLE) as session:
        assert (run(pipeline, inputs) - own).abs().max() < TOLERANCE
        assert session.committed == inputs.noise.shape[1]
    assert vars(pipeline) == before
    for block in generator.model.blocks:
        assert "forward" not in vars(block.self_attn)
    assert {"forward", "_apply_cache_updates"}.isdisjoint(vars(generator) | vars(generator.model))
    assert torch.equal(run(pipeline, inputs), own)  # and again, without us


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_beyond_the_window_it_gives_what_our_own_loop_gives(name: str, prefix: bool) -> None:
    inputs, pipeline = Inputs(2), family(name)
    expected = converted(pipeline, SMALL, inputs, prefix)
    with attach_pipeline(pipeline, SMALL):
        assert (run(pipeline, inputs, prefix) - expected).abs().max() < TOLERANCE
        if not isinstance(pipeline, RollingSink):  # which has freed what a second video needs
            assert (run(pipeline, inputs, prefix) - expected).abs().max() < TOLERANCE
    assert pipeline.allocated == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_leaves_nothing_behind(name: str) -> None:
    pipeline, inputs = family(name), Inputs(1)
    before = dict(vars(pipeline))
    inputs.renoise = inputs.renoise[..., :1, :3]
    with pytest.raises(RuntimeError, match="size"), attach_pipeline(pipeline, SMALL):
        run(pipeline, inputs)
    assert vars(pipeline) == before
    whole = Inputs(1)
    assert torch.equal(run(pipeline, whole), run(family(name), whole))


def test_guidance_has_two_caches(inputs: Inputs) -> None:
    policy = Window(sink=3, window=21, positions="absolute")
    own = build(Guided).inference(inputs.noise, inputs.prompt, inputs.other)
    pipeline = build(Guided)
    with attach_pipeline(pipeline, policy) as session:
        for _ in range(2):
            made = pipeline.inference(inputs.noise, inputs.prompt, inputs.other)
            assert (made - own).abs().max() < TOLERANCE
            assert session.committed == 6
        ours, away = (session.caches(*name)[1] for name in ((), ("negative",)))
        assert not torch.equal(ours.frames, away.frames)
    assert pipeline.kv_cache_neg is None


def test_a_scale_of_one_has_one_cache(inputs: Inputs) -> None:
    pipeline = build(Guided, scale=1)
    expected = pipeline.inference(inputs.noise, inputs.prompt, None)
    with attach_pipeline(pipeline, WHOLE):
        made = pipeline.inference(inputs.noise, inputs.prompt, None)
    assert (made - expected).abs().max() < TOLERANCE


def test_adapters_of_peft_stay_in_place(inputs: Inputs) -> None:
    peft = pytest.importorskip("peft")
    for updates in (False, True):
        pipeline = build(Pipeline, updates=updates)
        linear = [
            name
            for name, module in pipeline.generator.model.named_modules()
            if name.startswith("blocks") and isinstance(module, torch.nn.Linear)
        ]
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules=linear, init_lora_weights=False)
        plain = run(pipeline, inputs)
        pipeline.generator.model = peft.get_peft_model(pipeline.generator.model, config).eval()
        own = run(pipeline, inputs)
        assert not torch.allclose(own, plain, atol=1e-2)
        with attach_pipeline(pipeline, WHOLE):
            assert (run(pipeline, inputs) - own).abs().max() < TOLERANCE
        assert torch.equal(run(pipeline, inputs), own)


@dataclass(frozen=True)
class Told(Window):
    """A window that notes the events that it is told of."""

    def on(self, bank: Bank, event: Event) -> None:
        told.append((bank.layer, bank.readable, event))


told: list[tuple[int, int, Event]] = []


def test_a_policy_is_told_where_the_prompt_changes() -> None:
    told.clear()
    pipeline, inputs = build(InfinityRope), Inputs(1)
    prompts = [inputs.prompt, inputs.prompt, inputs.other, inputs.other.clone()]
    with attach_pipeline(pipeline, Told()):
        changed = pipeline.inference(inputs.noise, prompts, inputs.renoise)
        assert told == [(layer, 6, Switch()) for layer in range(3)]
        same = run(pipeline, inputs)
    assert torch.equal(changed[:, :6], same[:, :6])
    assert (changed[:, 6:] - same[:, 6:]).abs().max() > 1e-2


class Sorting(Pipeline):
    """Tells heads apart by its own caches in one chunk, as DummyForcing does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generator.model.args = SimpleNamespace(ar_start=1)

        def before(model: Any, args: Any, kwargs: Any) -> None:
            if kwargs["current_start"] // (3 * self.frame_seq_length) == model.args.ar_start:
                raise KeyError("frame_attn_score")

        self.generator.model.register_forward_pre_hook(before, with_kwargs=True)


def test_heads_are_not_sorted_by_caches_that_are_empty(inputs: Inputs) -> None:
    pipeline = build(Sorting)
    own = pipeline.generator.model.args
    with attach_pipeline(pipeline, WHOLE):
        made = run(pipeline, inputs)
    assert pipeline.generator.model.args is own
    assert own.ar_start == 1
    assert (made - run(build(Pipeline), inputs)).abs().max() < TOLERANCE


class Sparing(Pipeline):
    """Leaves out all blocks in some calls, as TeaCache does."""

    spared: tuple[int, ...] = ()

    def call(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls = getattr(self, "calls", -1) + 1
        self.generator.model.sparing = self.calls in self.spared
        return super().call(x, *args, **kwargs)


@pytest.mark.parametrize(("spared", "refused"), [((1, 6), False), ((0,), True), ((4,), True)])
def test_blocks_may_be_left_out_only_where_nothing_is_remembered(
    spared: tuple[int, ...], refused: bool, inputs: Inputs
) -> None:
    pipeline = build(Sparing)
    pipeline.spared = spared
    expected = run(pipeline, inputs)
    with attach_pipeline(pipeline, WHOLE):
        pipeline.calls = -1
        if refused:
            with pytest.raises(SessionError, match="TeaCache"):
                run(pipeline, inputs)
        else:
            assert (run(pipeline, inputs) - expected).abs().max() < TOLERANCE


def test_joint_denoising_is_refused_by_name(inputs: Inputs) -> None:
    pipeline = build(Pipeline)
    pipeline.kv_cache_clean = None
    with pytest.raises(ValueError, match="Rolling Forcing"), attach_pipeline(pipeline, WHOLE):
        pass
    del pipeline.kv_cache_clean
    with attach_pipeline(pipeline, WHOLE) as session:
        levels = torch.tensor([[250.0, 500.0, 1000.0]])
        with pytest.raises(ValueError, match="joint denoising"):
            pipeline.generator(inputs.noise[:, :3], {"prompt_embeds": inputs.prompt}, levels)
        run(pipeline, inputs)
        assert session.committed == 6


def test_what_makes_all_frames_at_once_is_refused() -> None:
    pipeline = SimpleNamespace(
        generator=build(Pipeline).generator, denoising_step_list=torch.tensor([1000])
    )
    with pytest.raises(ValueError, match="all frames at once"), attach_pipeline(pipeline, WHOLE):
        pass


@pytest.mark.parametrize("name", ["inference_t_scale", "multi_shot_rope_offset"])
def test_positions_that_are_not_the_policys_are_refused(name: str, inputs: Inputs) -> None:
    pipeline = build(Guided)
    setattr(pipeline, name, 0.5)
    with pytest.raises(ValueError, match=rf"`{name}`.*LongLive 2\.0"):
        attach_pipeline(pipeline, WHOLE).__enter__()
    setattr(pipeline, name, None)
    with attach_pipeline(pipeline, WHOLE):
        pass


def test_a_size_that_the_pipeline_does_not_know_of_is_refused(inputs: Inputs) -> None:
    pipeline = build(Pipeline)
    pipeline.frame_seq_length = 1560
    with (
        attach_pipeline(pipeline, WHOLE),
        pytest.raises(ValueError, match=r"has 20 tokens, but `frame_seq_length`.* 1560"),
    ):
        run(pipeline, inputs)
