"""The call, as callers of diffusers know it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from tests.toys import toy_pipeline
from tethercache.pipeline import CausalVideoPipeline
from tethercache.pipeline.refused import REASONS
from tethercache.policies.window import Window

PROMPT, OTHER = "a red ball rolling over grass", "a blue ball"
POLICY = Window(window=6)


@pytest.fixture(scope="module")
def pipe() -> CausalVideoPipeline:
    return toy_pipeline()


def latents(pipe: CausalVideoPipeline, *args: Any, **options: Any) -> Tensor:
    options = {"policy": POLICY, "num_frames": 21, "output_type": "latent"} | options
    return pipe(*args, **options).frames


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 12, 21])
def test_there_are_as_many_frames_as_asked_for(pipe: CausalVideoPipeline, frames: int) -> None:
    video = pipe(PROMPT, num_frames=frames, policy=POLICY).frames
    assert video.shape == (1, frames, 16, 16, 3)
    seconds = pipe(PROMPT, num_seconds=frames / 16, policy=POLICY).frames
    assert np.array_equal(video, seconds)


def test_without_a_length_it_is_that_of_the_training(pipe: CausalVideoPipeline) -> None:
    short = toy_pipeline(window=6)
    assert short(PROMPT, policy=POLICY).frames.shape[1] == 21
    with pytest.raises(ValueError, match="give a length"):
        short.stream(PROMPT, policy=POLICY)


def test_two_lengths_are_one_too_many(pipe: CausalVideoPipeline) -> None:
    with pytest.raises(ValueError, match="give a length in frames, in seconds or in latent frames"):
        pipe(PROMPT, num_frames=9, num_seconds=1)
    with pytest.raises(ValueError, match=r"`num_frames` \(0\) must be a whole number of at least"):
        pipe(PROMPT, num_frames=0)


def test_another_size_is_made(pipe: CausalVideoPipeline) -> None:
    wide = pipe(PROMPT, width=32, num_frames=9, policy=POLICY).frames
    assert wide.shape == (1, 9, 16, 32, 3)
    by_settings = toy_pipeline(width=32)(PROMPT, num_frames=9, policy=POLICY).frames
    assert np.array_equal(wide, by_settings)
    assert pipe(PROMPT, num_frames=9, policy=POLICY).frames.shape == (1, 9, 16, 16, 3)
    for options in ({"height": 20}, {"width": "16"}, {"height": 0}):
        with pytest.raises(ValueError, match=r"`(height|width)`"):
            pipe(PROMPT, num_frames=9, **options)


def test_several_videos_of_each_prompt(pipe: CausalVideoPipeline) -> None:
    four = latents(pipe, [PROMPT, OTHER], num_videos_per_prompt=2)
    assert len(four) == 4
    for i, prompt in enumerate((PROMPT, PROMPT, OTHER, OTHER)):
        assert close(four[i : i + 1], latents(pipe, prompt, samples=[i]))
    with pytest.raises(ValueError, match=r"`samples` \(1\) must be as many as videos \(2\)"):
        pipe(PROMPT, num_frames=9, num_videos_per_prompt=2, samples=[0])


def test_embeddings_stand_in_for_a_prompt(pipe: CausalVideoPipeline) -> None:
    embeds = pipe.encode_prompt([PROMPT, OTHER])
    assert torch.equal(pipe.encode_prompt(PROMPT), pipe.encode_prompt([PROMPT]))
    expected = latents(pipe, [PROMPT, OTHER], num_videos_per_prompt=2)
    assert torch.equal(latents(pipe, prompt_embeds=embeds, num_videos_per_prompt=2), expected)
    with pytest.raises(ValueError, match="`prompt` or `prompt_embeds` must be given"):
        pipe(num_frames=9)


def test_a_generator_decides_and_goes_on(pipe: CausalVideoPipeline) -> None:
    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    generator = fresh()
    first, second = (latents(pipe, PROMPT, generator=generator) for _ in range(2))
    assert torch.equal(latents(pipe, PROMPT, generator=fresh()), first)
    assert not torch.equal(first, second)
    mine = torch.Generator().manual_seed(4)
    both = latents(pipe, PROMPT, num_videos_per_prompt=2, generator=[fresh(), mine])
    assert close(both[:1], first)
    assert close(both[1:], latents(pipe, PROMPT, generator=mine.manual_seed(4)))
    for options, message in (
        ({"seed": 1}, "give `generator` or `seed`"),
        ({"generator": [fresh(), fresh()]}, r"`seed` \(2\) must be one or 1"),
        ({"generator": 3}, r"`generator` \(3\) must be a `torch.Generator`"),
    ):
        with pytest.raises(ValueError, match=message):
            latents(pipe, PROMPT, **{"generator": fresh()} | options)


def test_a_call_that_is_refused_draws_nothing(pipe: CausalVideoPipeline) -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    with pytest.raises(ValueError, match="policy"):
        latents(pipe, PROMPT, generator=generator, policy="sinc")
    assert torch.equal(generator.get_state(), before)


def test_each_video_may_have_a_seed(pipe: CausalVideoPipeline) -> None:
    both = latents(pipe, [PROMPT, OTHER], seed=[5, 7])
    assert close(both[:1], latents(pipe, PROMPT, seed=5))
    assert close(both[1:], latents(pipe, OTHER, seed=7))


def test_a_tuple_on_request(pipe: CausalVideoPipeline) -> None:
    options = {"num_frames": 5, "policy": POLICY}
    result = pipe(PROMPT, return_dict=False, **options)
    assert isinstance(result, tuple)
    assert np.array_equal(result[0], pipe(PROMPT, **options).frames)


def test_a_callback_sees_every_step(pipe: CausalVideoPipeline) -> None:
    seen = []

    def callback(told: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        assert told is pipe
        assert tensors["prompt_embeds"].shape == (1, 6, 8)
        seen.append((step, timestep, tensors["latents"]))
        return tensors

    names = ["latents", "prompt_embeds"]
    expected = latents(pipe, PROMPT)
    made = latents(
        pipe, PROMPT, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names
    )
    assert torch.equal(made, expected)
    assert pipe.num_timesteps == 8  # 6 latent frames, chunks of 3, 4 steps
    assert [step for step, _, _ in seen] == list(range(8))
    assert [time for _, time, _ in seen[:4]] == sorted((t for _, t, _ in seen[:4]), reverse=True)
    assert torch.equal(torch.cat([seen[3][2], seen[7][2]], dim=2), expected)
    assert not torch.equal(seen[2][2], seen[3][2])


def test_what_a_callback_returns_is_gone_on_with(pipe: CausalVideoPipeline) -> None:
    other = pipe.encode_prompt(OTHER)

    def last_is_grey(pipe: Any, step: int, timestep: float, tensors: Any) -> Any:
        return {"latents": tensors["latents"] * 0} if step == 3 else None

    def another_prompt(pipe: Any, step: int, timestep: float, tensors: Any) -> Any:
        return {"prompt_embeds": other} if step == 1 else {}

    expected = latents(pipe, PROMPT)
    grey = latents(pipe, PROMPT, callback_on_step_end=last_is_grey)
    assert not grey[:, :, :3].any()
    assert not torch.equal(grey[:, :, 3:], expected[:, :, 3:])
    switched = latents(pipe, PROMPT, callback_on_step_end=another_prompt)
    rollout = pipe.rollout(PROMPT, policy=POLICY, num_frames=21)
    by_hand = [next(rollout)]
    rollout.switch(other)
    assert torch.equal(switched, torch.cat([*by_hand, next(rollout)], dim=2))
    for wrong in (torch.zeros(1), torch.full_like(expected[:, :, :3], torch.nan)):
        with pytest.raises(ValueError, match="`latents`"):
            latents(pipe, PROMPT, callback_on_step_end=lambda *_, back=wrong: {"latents": back})


def test_the_callbacks_of_diffusers_work(pipe: CausalVideoPipeline) -> None:
    class Stop(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipe: Any, step: int, timestep: Any, tensors: Any) -> Any:
            if step == int(pipe.num_timesteps * self.config.cutoff_step_ratio):
                pipe._interrupt = True
            return tensors

    whole = latents(pipe, PROMPT, num_frames=45)
    made = latents(pipe, PROMPT, num_frames=45, callback_on_step_end=Stop(cutoff_step_ratio=0.25))
    assert torch.equal(made, whole[:, :, :6])  # steps 4 to 7 make the second chunk
    assert pipe.interrupt


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_an_interrupted_video_ends_with_its_chunk(pipe: CausalVideoPipeline, overlap: str) -> None:
    from tethercache.fit.execution import Execution

    def stop(pipe: Any, step: int, timestep: float, tensors: Any) -> None:
        pipe.interrupt = step >= 5

    options = {"policy": POLICY, "num_frames": 45, "execution": Execution(overlap=overlap)}
    short = pipe(PROMPT, callback_on_step_end=stop, **options).frames
    whole = pipe(PROMPT, **options).frames
    assert short.shape[1] == 21
    assert np.array_equal(short, whole[:, :21])
    assert not pipe.interrupt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callback_on_step_end": 3}, r"`callback_on_step_end` \(3\) must be a function"),
        (
            {"callback_on_step_end_tensor_inputs": ["noise_pred"]},
            r"`callback_on_step_end_tensor_inputs` \(noise_pred\) must be of latents and prompt",
        ),
        ({"return_dict": 1}, r"`return_dict` \(1\) must be True or False"),
        ({"num_videos_per_prompt": 0}, r"`num_videos_per_prompt` \(0\) must be a whole number"),
    ],
)
def test_mistakes_are_named(pipe: CausalVideoPipeline, options: Any, message: str) -> None:
    given = {"callback_on_step_end": lambda *_: None, "num_frames": 9, "policy": POLICY} | options
    with pytest.raises(ValueError, match=message):
        pipe(PROMPT, **given)


def test_every_argument_of_the_wan_pipeline_is_taken_or_refused_by_name(
    pipe: CausalVideoPipeline,
) -> None:
    theirs = set(inspect.signature(WanPipeline.__call__).parameters) - {"self"}
    ours = set(inspect.signature(pipe.__call__).parameters)
    assert theirs <= ours | set(REASONS)
    assert not ours & set(REASONS)
    for name, reason in REASONS.items():
        with pytest.raises(ValueError, match=f"`{name}` is not taken: ") as refused:
            pipe(PROMPT, num_frames=9, **{name: torch.ones(2)})
        assert reason in str(refused.value)


def test_what_is_done_anyway_may_be_asked_for(pipe: CausalVideoPipeline) -> None:
    asked = {"num_inference_steps": 4, "guidance_scale": 1.0, "negative_prompt": ""}
    asked |= {"max_sequence_length": 6, "attention_kwargs": None, "latents": None}
    assert torch.equal(latents(pipe, PROMPT, **asked), latents(pipe, PROMPT))
    for wrong in ({"num_inference_steps": 50}, {"guidance_scale": 5.0}, {"negative_prompt": "x"}):
        with pytest.raises(ValueError, match="distilled"):
            latents(pipe, PROMPT, **wrong)
    with pytest.raises(TypeError, match="unexpected argument `num_frame`; did you mean `num_fram"):
        latents(pipe, PROMPT, num_frame=9)


def test_latents_as_a_flag_has_another_name(pipe: CausalVideoPipeline) -> None:
    expected = latents(pipe, PROMPT)
    with pytest.deprecated_call(match="`latents` is now `decode`") as warned:
        chunks = pipe.stream(PROMPT, policy=POLICY, num_frames=21, latents=True)
    assert warned[0].filename == __file__
    assert torch.equal(torch.cat(list(chunks), dim=2), expected)
    for wrong in (True, torch.zeros(1, 4, 6, 4, 4)):
        with pytest.raises(ValueError, match=r'`latents` is not taken: .* `output_type="latent"`'):
            pipe(PROMPT, num_frames=21, latents=wrong)


@pytest.mark.parametrize("other", [UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def test_another_scheduler_is_refused(other: Any) -> None:
    pipe = toy_pipeline()
    with pytest.raises(ValueError, match=f"`scheduler` .{other.__name__}. must be a `FlowMatchLCM"):
        pipe.scheduler = other.from_config(pipe.scheduler.config)
    assert isinstance(pipe.scheduler, FlowMatchLCMScheduler)
    with pytest.raises(ValueError, match=r"`scheduler` .* must be a `FlowMatchLCM"):
        CausalVideoPipeline.from_pretrained("tiny", scheduler=other())
    pipe.scheduler = FlowMatchLCMScheduler.from_config(pipe.scheduler.config, shift=3.0)
    assert pipe.scheduler.config.shift == 3.0


def test_the_vae_is_switched_to_tiles_and_slices() -> None:
    pipe = toy_pipeline(width=32)
    options = {"policy": POLICY, "num_frames": 13, "output_type": "pt"}

    def frames(**more: Any) -> Tensor:
        return pipe([PROMPT, OTHER], **options, **more).frames

    plain = frames()
    pipe.enable_vae_slicing()
    sliced = frames()
    assert (sliced - plain).abs().max() < 1.5 / 255  # rounding, by a level at most
    pipe.disable_vae_slicing()
    sizes = {"tile_sample_min_height": 16, "tile_sample_min_width": 16}
    pipe.enable_vae_tiling(**sizes, tile_sample_stride_height=8, tile_sample_stride_width=8)
    from tethercache.video import TileSize

    tiled = frames()
    assert not torch.equal(tiled, plain)
    pipe.vae.disable_tiling()
    assert torch.equal(frames(tile=TileSize(16, 16, 8, 8)), tiled)
    pipe.enable_vae_tiling()  # the sizes of before
    assert torch.equal(frames(), tiled)
    pipe.disable_vae_tiling()
    assert torch.equal(frames(), plain)


def test_models_take_turns_on_a_device() -> None:
    pipe = toy_pipeline()
    expected = latents(pipe, PROMPT)
    frames = pipe(PROMPT, policy=POLICY, num_frames=9).frames
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(latents(pipe, PROMPT), expected)
    assert np.array_equal(pipe(PROMPT, policy=POLICY, num_frames=9).frames, frames)
    assert all(hasattr(model, "_hf_hook") for model in (pipe.transformer, pipe.vae))
    pipe.remove_all_hooks()
    assert torch.equal(latents(pipe, PROMPT), expected)
