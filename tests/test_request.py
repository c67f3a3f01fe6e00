"""What is asked of a video: checked by name, and the same as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from tethercache.cli.generate import generate
from tethercache.models import Settings
from tethercache.policies.tethercache import TetherCache
from tethercache.request import Lora, VideoRequest
from tethercache.script import Change
from tethercache.video.mp4 import DEFAULT_CRF

FULL = VideoRequest(
    prompt="a red ball",
    latent_frames=9,
    policy="tethercache:alpha=0.5",
    model="models/toy",
    weights_dir="weights",
    loras=(Lora("film.safetensors", 0.5), Lora("b.safetensors")),
    prefix="clip.mp4",
    seed=2**64 - 1,
    sample=3,
    then=(
        Change(1.5, "a blue ball", "cut", policy="tethercache:alpha=0.1"),
        Change(2, seed=4, pin=(0, 1.25), forget=(1.25, 2)),
    ),
    device="cuda:1",
    dtype="bfloat16",
    vae_dtype="float32",
    vram=16,
    attention="sage",
    compile=True,
    overlap="off",
    decoder="preview",
    channels_last=True,
    threads=2,
    crf=30,
    watch_drift=True,
)


@pytest.mark.parametrize("request_", [VideoRequest("a red ball"), FULL])
def test_a_request_survives_json(request_: VideoRequest) -> None:
    text = json.dumps(request_.to_dict())
    assert VideoRequest.from_dict(json.loads(text)) == request_
    assert json.loads(text)["version"] == 1


def test_what_a_request_leaves_out_has_its_default() -> None:
    assert VideoRequest.from_dict({"prompt": "a red ball"}) == VideoRequest("a red ball")
    assert VideoRequest("a red ball").seconds == 10
    assert VideoRequest(" a red ball\n").prompt == "a red ball"
    assert VideoRequest.crf == DEFAULT_CRF


def test_the_flags_take_their_defaults_from_the_request() -> None:
    names = {"compiled": "compile", "lora": "loras"}
    own = {"prompt", "prompts", "script", "num_samples", "output", "overwrite", "as_json", "debug"}
    own |= {"resume", "resume_anyway"}
    flags = {
        names.get(name, name): parameter.default
        for name, parameter in inspect.signature(generate).parameters.items()
        if name not in own
    }
    fields = {f.name: f.default for f in dataclasses.fields(VideoRequest)}
    assert flags.keys() == fields.keys() - {"prompt", "sample", "branch"}
    for name, default in flags.items():
        assert default == fields[name] or (name in ("loras", "then") and default is None)


def test_a_policy_becomes_its_spec_and_paths_become_texts() -> None:
    request: Any = VideoRequest("a ball", policy=TetherCache(alpha=0.5), prefix=Path("clip.mp4"))  # type: ignore[arg-type]
    assert request.policy.startswith("tethercache:sink=3,")
    assert "alpha=0.5" in request.policy
    assert request.prefix == "clip.mp4"
    assert request.chosen_policy("fifo") == TetherCache(alpha=0.5)
    assert VideoRequest("a ball").chosen_policy("tethercache:memory=5") == TetherCache(memory=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": "red"}, "a request has no key `colour`"),
        ({"latent_frame": 3}, "did you mean `latent_frames`"),
        ({"version": 2}, r"`version` \(2\) of a request must be 1"),
        ({"version": True}, r"`version` \(True\)"),
        ({"prompt": 7}, r"`prompt` \(7\) must be a text"),
        ({"prompt": " "}, "must not be empty"),
        ({"seconds": "10"}, r"`seconds` \('10'\) must be a positive number"),
        ({"seconds": 1, "latent_frames": 3}, "not both"),
        ({"latent_frames": 1.5}, "`latent_frames`"),
        ({"policy": 3}, "`policy`"),
        ({"model": None, "seed": "0"}, "`seed`|`model`"),
        ({"seed": 2**64}, "`seed`"),
        ({"sample": -1}, "`sample`"),
        ({"device": 0}, r"`device` \(0\) must be a text"),
        ({"dtype": "int8"}, r"`dtype` \(int8\) must be float32, bfloat16 or float16"),
        ({"vae_dtype": 16}, "`vae_dtype`"),
        ({"vram": "much"}, r"`vram` \(much\) must be a number of GB"),
        ({"vram": True}, r"`vram` \(True\)"),
        ({"vram": 10**400}, "must be a number of GB"),
        ({"attention": "quick"}, r"`attention` \(quick\)"),
        ({"compile": 1}, r"`compile` \(1\) must be True or False"),
        ({"overlap": "maybe"}, "`overlap`"),
        ({"decoder": "taehv"}, "`decoder`"),
        ({"channels_last": "yes"}, "`channels_last`"),
        ({"threads": 0}, r"`threads` \(0\) must be a whole number from 1 to 512"),
        ({"crf": 52}, "`crf`"),
        ({"watch_drift": None}, "`watch_drift`"),
        ({"prefix": ["clip.mp4"]}, "`prefix`"),
        ({"loras": "film.safetensors"}, "`loras`"),
        ({"loras": [["film.safetensors", 1]]}, "`loras`"),
        ({"loras": [{"scale": 1}]}, "must have a `file`"),
        ({"loras": [{"file": "a", "weight": 1}]}, "a LoRA has no key `weight`"),
        ({"loras": [{"file": "a", "scale": "1"}]}, "`scale`"),
        ({"then": {"at": 1}}, "`then`.*must be a list of changes"),
        ({"then": ["5: a ball"]}, r"`then\[0\]`: `change`.*must be an object with `at`"),
        ({"then": [{"at": 1, "text": "a", "colour": 1}]}, r"`then\[0\]`: .*no key `colour`"),
    ],
)
def test_what_a_request_may_not_say_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoRequest.from_dict({"prompt": "a red ball"} | given)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(VideoRequest)])
def test_what_holds_itself_is_refused_by_name(name: str) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=rf"`{name}[`\[]"):
        VideoRequest.from_dict({"prompt": "a red ball", name: endless})


@pytest.mark.parametrize("given", [[], "a red ball", None, {}])
def test_a_request_is_an_object_with_a_prompt(given: Any) -> None:
    with pytest.raises(ValueError, match="`prompt`"):
        VideoRequest.from_dict(given)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("film.safetensors", Lora("film.safetensors")),
        ("film.safetensors:0.5", Lora("film.safetensors", 0.5)),
        ("C:film", Lora("C:film")),
        ("a:b:2", Lora("a:b", 2.0)),
    ],
)
def test_an_adapter_is_a_file_and_a_scale(text: str, expected: Lora) -> None:
    assert Lora.parse(text) == expected


def test_a_request_is_planned_for_a_model() -> None:
    plan = VideoRequest("a ball", seconds=2).plan(Settings(), TetherCache())
    assert plan.num_frames == 32
    with pytest.raises(ValueError, match="must not exceed the 12"):
        VideoRequest("a ball").plan(Settings(window=12), TetherCache())


def test_names_that_moved_work_with_a_warning() -> None:
    from tethercache import execution, memory
    from tethercache.fit.execution import Execution
    from tethercache.fit.memory import estimate

    with pytest.warns(DeprecationWarning, match=r"has moved to tethercache\.fit\.execution"):
        assert execution.Execution is Execution
    with pytest.warns(DeprecationWarning, match=r"has moved to tethercache\.fit\.memory"):
        assert memory.estimate is estimate
