"""Pipelines of every family, used as their authors do, on an object that has never run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests import tables
from tests.backbones.original import (
    Guided,
    InfinityRope,
    Interactive,
    Loop,
    Pipeline,
    RollingSink,
)
from tests.golden.runner import load_transformer
from tests.models.checkpoints.made import GOLDEN, official
from tethercache.backbones import attach, attach_pipeline, float64_sinusoid, new_session
from tethercache.cache import Bank, Event, Policy, Switch
from tethercache.errors import SessionError
from tethercache.policies.tethercache import TetherCache
from tethercache.policies.window import Window
from tethercache.rollout import Plan, Rollout, Steps

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


@dataclass(frozen=True)
class Told(Window):
    """A window that notes the events that it is told of."""

    def on(self, bank: Bank, event: Event) -> None:
        told.append((bank.layer, bank.readable, event))


told: list[tuple[int, int, Event]] = []


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
        "interactive longlive": lambda: build(Interactive, updates=True),
    }[name]()


FAMILIES = [
    "self-forcing",
    "reward-forcing",
    "causal-forcing++",
    "causal-forcing++ with context noise",
    "rolling-sink",
    "infinity-rope",
    "longlive",
    "interactive longlive",
]


def run(pipeline: Any, inputs: Inputs, prefix: bool = False) -> Tensor:
    prompt: Any = inputs.prompt
    if isinstance(pipeline, InfinityRope | Interactive):
        prompt = [inputs.prompt] * (inputs.noise.shape[1] // 3)
    start = inputs.prefix if prefix else None
    latents: Tensor = pipeline.inference(inputs.noise, prompt, inputs.renoise, start)
    return latents


def levels(sigmas: Sequence[float]) -> Steps:
    return Steps(tuple(1000 * sigma for sigma in sigmas), tuple(sigmas))


def converted(pipeline: Any, policy: Policy, inputs: Inputs, prefix: bool = False) -> Tensor:
    """The same video by our own rollout, with the same weights in diffusers' transformer."""
    transformer, start = load_transformer(GOLDEN), 3 if prefix else 0
    frames = inputs.noise.shape[1]

    def noise(chunk: int, draw: int, shape: tuple[int, ...]) -> Tensor:
        if draw:
            again = inputs.renoise[chunk, (draw - 1) % 3].expand(len(inputs.noise), -1, -1, -1, -1)
        else:
            again = inputs.noise[:, 3 * chunk : 3 * chunk + 3]
        return again.transpose(1, 2)

    with float64_sinusoid(transformer):
        rollout = Rollout(
            transformer,
            new_session(transformer, policy, chunk_size=3, keep_rotated=True),
            Plan(start + frames, chunk_size=3, prefix=start),
            levels(SIGMAS),
            noise,
            inputs.prompt,
            latent_size=tuple(inputs.noise.shape[-2:]),
            first_steps=pipeline.first_sigmas and levels(pipeline.first_sigmas),
            context_noise=pipeline.context_noise,
            prefix=inputs.prefix.transpose(1, 2) if prefix else None,
        )
        return torch.cat(list(rollout), dim=2).transpose(1, 2)


def held(pipeline: Any) -> list[dict[str, Any]]:
    """What the pipeline and every part that may be stood in for hold."""
    generator = pipeline.generator
    attentions = [block.self_attn for block in generator.model.blocks]
    parts = (pipeline, generator, generator.model, *attentions)
    return [{n: v for n, v in vars(part).items() if n[0] != "_"} | methods(part) for part in parts]


def methods(part: Any) -> dict[str, Any]:
    """Methods that stand in for those of a part's class."""
    return {name: value for name, value in vars(part).items() if callable(value)}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_that_has_never_run_gives_its_own_video_within_the_window(
    name: str, batch: int
) -> None:
    inputs = Inputs(batch, frames=9)
    own, pipeline = run(family(name), inputs), family(name)
    before = held(pipeline)
    with attach_pipeline(pipeline, WHOLE) as session:
        assert (run(pipeline, inputs) - own).abs().max() < TOLERANCE
        assert session.committed == inputs.noise.shape[1]
    assert held(pipeline) == before
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


@pytest.mark.parametrize(("at", "batch"), [(0, 1), (4, 1), (13, 2)])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_leaves_nothing_behind(name: str, at: int, batch: int) -> None:
    pipeline, inputs = family(name), Inputs(batch)
    before, calls, layer = held(pipeline), count(), pipeline.generator.model.blocks[1]

    def broken(module: Any, args: Any) -> None:
        if next(calls) == at:
            raise InterruptedError

    hook = layer.register_forward_pre_hook(broken)
    with pytest.raises(InterruptedError), attach_pipeline(pipeline, SMALL):
        run(pipeline, inputs)
    hook.remove()
    assert held(pipeline) == before
    within = Inputs(batch, frames=9)
    assert torch.equal(run(pipeline, within), run(family(name), within))


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


class ChunkByChunk(Interactive):
    """Reads again chunk by chunk."""

    def read_again(self, frames: Tensor, prompt_embeds: Tensor, start: int) -> None:
        for number, chunk in enumerate(frames.split(3, dim=1)):
            super().read_again(chunk, prompt_embeds, start + 3 * number)


class Unnamed(ChunkByChunk):
    """Does the same in its loop, with no method of its own."""

    _recache_after_switch = property()

    def before_chunk(self, number: int, made: list[Tensor], prompt_embeds: Any) -> Tensor:
        if number == 3:
            for cache in self.crossattn_cache:
                cache["is_init"] = False
            self.read_again(torch.cat(made, dim=1)[:, 3:], prompt_embeds[number], 3)
            for cache in self.crossattn_cache:
                cache["is_init"] = False
        return prompt_embeds[number]


def switching(kind: type[Interactive], frames: int = 12, **options: Any) -> tuple[Any, Any]:
    """A pipeline, and a video of it whose prompt changes before the last chunk."""
    pipeline, inputs = build(kind, updates=True), Inputs(1, frames)
    for name, value in options.items():
        setattr(pipeline, name, value)
    prompts = [inputs.prompt] * (frames // 3 - 1) + [inputs.other]
    return pipeline, lambda: pipeline.inference(inputs.noise, prompts, inputs.renoise)


@pytest.mark.parametrize("noise", [0, 100])
@pytest.mark.parametrize("kind", [Interactive, ChunkByChunk])
def test_a_prompt_switch_reads_again_what_the_pipeline_reads(
    kind: type[Interactive], noise: int
) -> None:
    _, theirs = switching(kind, context_noise=noise)
    pipeline, ours = switching(kind, context_noise=noise)
    expected = theirs()
    told.clear()
    with attach_pipeline(pipeline, Told(window=21, positions="absolute")) as session:
        assert (ours() - expected).abs().max() < TOLERANCE
        assert told == [(layer, 9, Switch()) for layer in range(3)]
        assert session.committed == 12
        assert (ours() - expected).abs().max() < TOLERANCE
    assert "_recache_after_switch" not in vars(pipeline)
    soft, made = switching(kind, context_noise=noise)
    soft.read_again = lambda *_: None
    assert (made() - expected).abs().max() > 1e-3  # so it mattered


@torch.no_grad()
def recached(policy: Policy, index: list[list[int]], sink: int = 0) -> Tensor:
    """18 frames of our own loop whose prompt changes at 15, where frames are read again."""
    transformer, inputs, made = load_transformer(GOLDEN), Inputs(1, 18), []
    with float64_sinusoid(transformer), attach(transformer, policy, chunk_size=3) as session:

        def flow(x: Tensor, timestep: float, prompt: Tensor) -> Tensor:
            sample = transformer(x.transpose(1, 2), torch.tensor([timestep]), prompt).sample
            return sample.transpose(1, 2)

        prompt = inputs.prompt
        for number, x in enumerate(inputs.noise.split(3, dim=1)):
            if number == 5:
                prompt = inputs.other
                for bank in session.caches() if sink else ():
                    bank.keep(bank.slots(0, sink))
                    bank.release()
                for place, frames in enumerate(index):
                    anew = not (place or sink)
                    with session.replay_pass(torch.tensor([frames]), anew=anew):
                        flow(torch.cat(made, dim=1)[:, frames], 0.0, prompt)
            with session.chunk(3, 4):
                for step, sigma in enumerate(SIGMAS):
                    if step:
                        x = (1 - sigma) * x + sigma * inputs.renoise[None, number, step - 1]
                    with session.denoising_pass():
                        x = x - sigma * flow(x, 1000 * sigma, prompt)
                with session.context_pass():
                    flow(x, 0.0, prompt)
            made.append(x)
    return torch.cat(made, dim=1)


@pytest.mark.parametrize(
    ("options", "index", "sink"),
    [
        ({}, [[*range(3, 15)]], 0),  # all 15 frames are more than are remembered
        ({"local_attn_size": 6}, [[*range(9, 15)]], 0),
        ({"local_attn_size": 12, "global_sink": True}, [[*range(6, 15)]], 3),
    ],
)
@pytest.mark.parametrize("policy", [Window(sink=3, window=12), TetherCache(memory=5)], ids=str)
def test_beyond_the_window_what_is_remembered_is_read_again(
    policy: Policy, options: dict[str, Any], index: list[list[int]], sink: int
) -> None:
    expected = recached(policy, index, sink)
    pipeline, made = switching(Interactive, 18, **options)
    with attach_pipeline(pipeline, policy):
        assert (made() - expected).abs().max() < TOLERANCE


def test_clean_calls_on_committed_frames_read_them_again_whatever_they_are_called() -> None:
    pipeline, made = switching(Unnamed)
    with attach_pipeline(pipeline, WHOLE) as session:
        first = made()
        assert session.committed == 12
        (bank, *_) = session.caches()
        assert bank.frame_index[0, : bank.readable].sort().values.tolist() == [*range(3, 12)]
        assert torch.equal(made(), first)


def test_frames_that_are_not_made_cannot_be_read_again(inputs: Inputs) -> None:
    pipeline, _ = switching(Interactive)
    with attach_pipeline(pipeline, WHOLE):
        pipeline.inference(inputs.noise, [inputs.prompt] * 2, inputs.renoise)
        with pytest.raises(SessionError, match=r"frames 0 to 8 .* only 6 are committed"):
            pipeline._recache_after_switch(Inputs(1, 9).noise, 9, inputs.other)


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


# what the page says of a pipeline, and which cases above show it: families, or single tests
ROWS: list[tuple[str, str, tuple[Any, ...]]] = [
    (
        "Self-Forcing, Causal-Forcing, Reward-Forcing",
        "what Reward-Forcing's sink averages is the policy's to say: `ema-sink`",
        ("self-forcing", "reward-forcing"),
    ),
    (
        "Causal-Forcing++",
        "`denoising_step_list_first_chunk` counts for the first chunk behind a prefix; with and "
        "without context noise",
        ("causal-forcing++", "causal-forcing++ with context noise"),
    ),
    (
        "Rolling-Sink",
        "once, as its pipeline frees its model before it decodes",
        ("rolling-sink",),
    ),
    (
        "Infinity-RoPE",
        "the policy is told where the prompt changes; what it does to its own cache there is "
        "without effect",
        ("infinity-rope", test_a_policy_is_told_where_the_prompt_changes),
    ),
    (
        "LongLive, MemRoPE",
        "whose attention returns `(x, update)`",
        ("longlive", test_adapters_of_peft_stay_in_place),
    ),
    (
        "interactive LongLive and its children",
        "`_recache_after_switch` replaces what is remembered by the frames that it reads, at most "
        "a window of them; with `global_sink` the sink stays",
        (
            "interactive longlive",
            test_a_prompt_switch_reads_again_what_the_pipeline_reads,
            test_beyond_the_window_what_is_remembered_is_read_again,
        ),
    ),
    (
        "DummyForcing, Forcing-KV",
        "their sorting of heads is off; so must their TeaCache be if it leaves out a chunk's first "
        "or last pass",
        (
            test_heads_are_not_sorted_by_caches_that_are_empty,
            test_blocks_may_be_left_out_only_where_nothing_is_remembered,
        ),
    ),
    (
        "causal diffusion with classifier-free guidance",
        'two caches: `session.caches("negative")`',
        (test_guidance_has_two_caches, test_a_scale_of_one_has_one_cache),
    ),
    (
        "LongLive 2.0",
        "with plain positions; `inference_t_scale` and `multi_shot_rope_offset` are refused",
        (test_guidance_has_two_caches, test_positions_that_are_not_the_policys_are_refused),
    ),
    (
        "Rolling Forcing, Causal-Forcing's `long_video`",
        "several chunks are denoised jointly, so none is clean before the next begins",
        (test_joint_denoising_is_refused_by_name,),
    ),
    (
        "bidirectional pipelines",
        "they make all frames at once",
        (test_what_makes_all_frames_at_once_is_refused,),
    ),
]


def table() -> str:
    """The pipelines and what becomes of them, as the page shows them."""

    def verdict(cases: tuple[Any, ...]) -> str:
        names = [case.__name__ for case in cases if callable(case)]
        refused = len(names) == len(cases) == 1 and "is_refused" in names[0]
        return "refused" if refused else "served"

    return tables.table(
        ("pipeline", "`attach_pipeline`", ""),
        ((shown, verdict(cases), note) for shown, note, cases in ROWS),
    )


def test_every_family_is_in_the_table() -> None:
    assert {case for *_, cases in ROWS for case in cases if isinstance(case, str)} == {*FAMILIES}
