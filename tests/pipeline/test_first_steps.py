"""Models whose first chunk has steps of its own (Causal-Forcing++): in every path of a video."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tethercache as tc
from tests.bench.toy import DEVICE, TOY
from tests.render.test_branch import follow
from tests.render.test_durable import Run, loaded_for
from tests.states import written_and_read
from tests.toys import toy_pipeline
from tethercache.cli.model_rows import rows
from tethercache.models import Settings, find
from tethercache.pipeline import CausalVideoPipeline
from tethercache.policies.window import Window
from tethercache.render.batch import Resume
from tethercache.render.branch import plan_branch
from tethercache.render.reproduce import compare, reproduce
from tethercache.video import read_sidecar

FEW, MANY = (1.0, 0.5), (1.0, 0.75, 0.5, 0.25)
PROMPT = "a red ball rolling over grass"
ASKED: dict[str, Any] = {"num_latent_frames": 12, "policy": Window(sink=3, window=9), "seed": 5}


def pipeline(sigmas: tuple[float, ...] = FEW, first: tuple[float, ...] | None = MANY) -> Any:
    return toy_pipeline(sigmas=list(sigmas), first_sigmas=first and list(first))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model") / "few"
    pipeline().save_pretrained(made)
    return made


def test_the_first_chunk_is_that_of_many_steps_and_the_others_of_few() -> None:
    many, few, both = pipeline(MANY, None), pipeline(FEW, None), pipeline()
    first = next(many_rollout := many.rollout(PROMPT, **ASKED))
    rest = few.rollout(PROMPT, **ASKED)
    rest.load_state_dict(many_rollout.state_dict())
    expected = [first, *rest]
    made = list(both.rollout(PROMPT, **ASKED))
    assert all(map(torch.equal, made, expected))
    assert not torch.equal(made[0], next(few.rollout(PROMPT, **ASKED)))
    assert not torch.equal(made[1], list(many.rollout(PROMPT, **ASKED))[1])


def told(pipe: Any, **asked: Any) -> list[list[float]]:
    """The timesteps of the denoising passes of each chunk that is made."""
    seen: list[float] = []
    pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(float(args[1][0])))
    for _ in pipe.rollout(PROMPT, **ASKED | asked):
        pass
    chunks: list[list[float]] = [[]]
    for timestep in seen:
        chunks[-1].append(timestep)
        if timestep == 0:
            chunks.append([])
    return [chunk[:-1] for chunk in chunks if chunk]


@pytest.mark.parametrize("prefix", [0, 3, 6])
def test_it_is_the_first_chunk_that_is_made_behind_a_prefix_too(prefix: int) -> None:
    asked = {"prefix_latents": torch.randn(1, 4, prefix, 4, 4)} if prefix else {}
    shifted = {sigma: 1000 * 5 * sigma / (1 + 4 * sigma) for sigma in MANY}
    expected = [[]] * (prefix // 3) + [[shifted[s] for s in MANY]]
    expected += [[shifted[s] for s in FEW]] * (4 - len(expected))
    made = told(pipeline(), **asked)
    assert [len(chunk) for chunk in made] == [len(chunk) for chunk in expected]
    for chunk, steps in zip(made, expected, strict=True):
        assert chunk == pytest.approx(steps, abs=1e-3)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_states_and_forks_go_on_with_the_same_bits(at: int) -> None:
    whole = list(pipeline().rollout(PROMPT, **ASKED))
    rollout = pipeline().rollout(PROMPT, **ASKED)
    made = [next(rollout) for _ in range(at)]
    fork, state = rollout.fork(), written_and_read(rollout.state_dict())
    loaded = pipeline().rollout(PROMPT, **ASKED)
    loaded.load_state_dict(state)
    for other in (fork, loaded, rollout):
        assert all(map(torch.equal, [*made, *other], whole))


def test_a_callback_counts_all_steps() -> None:
    pipe, seen = pipeline(), []

    def callback(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return tensors

    pipe(PROMPT, **ASKED, callback_on_step_end=callback, output_type="latent")
    assert seen == list(range(4 + 2 + 2 + 2))
    assert pipe.num_timesteps == len(seen)


def test_a_saved_model_keeps_them(folder: Path) -> None:
    pipe = CausalVideoPipeline.from_pretrained(folder)
    assert pipe.settings.first_sigmas == MANY
    expected = pipeline()(PROMPT, **ASKED, output_type="latent").frames
    assert torch.equal(pipe(PROMPT, **ASKED, output_type="latent").frames, expected)
    shown = dict(rows(find(str(folder)), None))["settings"]
    assert "1, 0.5 (of the first chunk 1, 0.75, 0.5, 0.25) before the shift" in shown


def test_blocks_of_modular_diffusers_take_them(folder: Path) -> None:
    from tethercache.pipeline.modular import CausalBlocks

    pipe = CausalBlocks().init_pipeline(str(folder))
    pipe.load_components()
    latents: Tensor = pipe(prompt=PROMPT, **ASKED, output_type="latent", output="videos")
    assert torch.equal(latents, pipeline()(PROMPT, **ASKED, output_type="latent").frames)


@pytest.mark.parametrize("first", [(), (0.5, 1.0), [1.0], (1.0, 0.0)])
def test_what_they_may_be(first: Any) -> None:
    with pytest.raises(ValueError, match="`first_sigmas"):
        Settings(first_sigmas=first)


def test_a_benchmark_takes_them() -> None:
    model = TOY.build(DEVICE, torch.float32)
    model = dataclasses.replace(model, settings=Settings(sigmas=FEW, first_sigmas=MANY))
    assert (len(model.steps()), len(model.steps(first=True))) == (2, 4)


@pytest.fixture(scope="module")
def asked(folder: Path) -> tc.VideoRequest:
    """Seven chunks, with a snapshot after each that may have one, which all stay."""
    kept: dict[str, Any] = {"snapshot_every": 0.0, "snapshot_budget": 1.0, "device": "cpu"}
    kept |= {"model": str(folder), "policy": "sink:window=9"}
    return tc.VideoRequest(PROMPT, latent_frames=21, **kept)


def test_a_video_goes_on_branches_and_is_made_again(asked: tc.VideoRequest, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "broken")]
    for folder in folders:
        folder.mkdir()
    loaded = loaded_for(asked)
    whole, broken = (Run(loaded, folder) for folder in folders)
    record = whole()
    assert record.settings["sigmas"] == list(FEW)
    assert record.settings["first_sigmas"] == list(MANY)
    broken.broken(5)
    broken(resume=Resume.YES)
    assert broken.went_on_at == 3
    assert broken.path.read_bytes() == whole.path.read_bytes()
    for second in (0.0, 1.0, 3.0):
        point = plan_branch(whole.path, second, tmp_path / f"{second}.mp4")
        follow(point)
        assert point.job.path.read_bytes() == whole.path.read_bytes()
    assert reproduce(whole.path).same
    again = dataclasses.replace(record, settings={**record.settings, "first_sigmas": list(FEW)})
    assert "another first_sigmas" in compare(read_sidecar(whole.path), again).causes
