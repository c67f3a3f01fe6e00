"""The rollout as blocks of modular diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ModularPipelineBlocks, SequentialPipelineBlocks

from tethercache.pipeline import CausalVideoPipeline
from tethercache.pipeline.modular import CausalBlocks, Decode

PROMPT, OTHER = "a red ball rolling over grass", "a blue ball"
ASKED = {"num_frames": 18, "policy": "fifo:window=6", "seed": 3}


def loaded(blocks: Any, folder: Path) -> Any:
    pipe = blocks.init_pipeline(str(folder))
    pipe.load_components()
    return pipe


@pytest.fixture(scope="module")
def pipe(model: Path) -> Any:
    return loaded(CausalBlocks(), model)


@pytest.fixture(scope="module")
def whole(model: Path) -> CausalVideoPipeline:
    return CausalVideoPipeline.from_pretrained(model)


def test_blocks_make_the_bits_of_the_pipeline(pipe: Any, whole: CausalVideoPipeline) -> None:
    made = pipe(prompt=PROMPT, output="videos", **ASKED)
    assert made.shape == (1, 18, 16, 16, 3)
    assert np.array_equal(made, whole(PROMPT, **ASKED).frames)
    both = pipe(prompt=[PROMPT, OTHER], output="videos", output_type="latent", **ASKED)
    assert torch.equal(both, whole([PROMPT, OTHER], output_type="latent", **ASKED).frames)


def test_settings_come_from_the_folder(pipe: Any, whole: CausalVideoPipeline) -> None:
    state = pipe(prompt=PROMPT, policy="fifo:window=6")
    assert state.get("video_frames") == 81  # the length of the training
    assert pipe.config["height"] == whole.config["height"] == 16
    again = pipe(state=state, num_seconds=0.5, output="videos")
    assert again.shape[1] == 8


def test_a_block_in_the_loop_sees_every_chunk_and_may_switch_the_prompt(
    model: Path, whole: CausalVideoPipeline
) -> None:
    other = whole.encode_prompt(OTHER)

    class Watch(ModularPipelineBlocks):
        chunks: list[torch.Tensor] = []  # noqa: RUF012

        @torch.no_grad()
        def __call__(self, components: Any, here: Any, number: int) -> Any:
            self.chunks.append(here.chunk)
            if number == 0:
                here.rollout.switch(other)
            return components, here

    blocks = CausalBlocks()
    blocks.sub_blocks["rollout"].sub_blocks.insert("watch", Watch(), 1)
    made = loaded(blocks, model)(prompt=PROMPT, output="latents", **ASKED)
    rollout = whole.rollout(PROMPT, **ASKED)
    expected = [next(rollout)]
    rollout.switch(other)
    expected += rollout.rest()
    assert torch.equal(torch.cat(Watch.chunks, dim=2), torch.cat(expected, dim=2))
    assert torch.equal(made, torch.cat(expected, dim=2)[:, :, : made.shape[2]])


def test_a_block_alone(model: Path, whole: CausalVideoPipeline) -> None:
    class JustDecode(SequentialPipelineBlocks):
        block_classes = [Decode]  # noqa: RUF012
        block_names = ["decode"]  # noqa: RUF012

    latents = whole(PROMPT, output_type="latent", **ASKED).frames
    pipe = loaded(JustDecode(), model)
    assert list(pipe.components) == ["vae"]
    videos = pipe(latents=latents, output="videos", output_type="np")
    assert np.array_equal(videos[:, :18], whole(PROMPT, **ASKED).frames)


def test_mistakes_are_named(pipe: Any) -> None:
    for options, message in (
        ({"policy": "sinc"}, "unknown policy `sinc`"),
        ({"num_seconds": 3}, "give a length in frames, in seconds or in latent frames"),
        ({"output_type": "gif"}, r"`output_type` \(gif\) must be"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(prompt=PROMPT, **ASKED | options)
