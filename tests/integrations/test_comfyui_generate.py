"""The node "TetherCache generate" and the small ones, without a ComfyUI."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from integrations.comfyui import NODE_CLASS_MAPPINGS
from integrations.comfyui.generate import TetherCacheGenerate
from integrations.comfyui.mark_causal import mark
from integrations.comfyui.tiny import Frames, Text
from tests.conftest import ROOT
from tests.toys import toy_pipeline
from tethercache.render import durable, request_of
from tethercache.video import probe, read_sidecar
from tethercache.video.target import partial_path

FOLDER = ROOT / "integrations/comfyui"


class Cancelled(BaseException):
    """ComfyUI's exception is no `Exception` either."""


class Comfy:
    """What the node uses of ComfyUI; `cancel_after` chunks somebody presses Cancel."""

    def __init__(self, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.output, self.told, self.unloaded = output, [], 0
        self.cancel_after: int | None = None
        memory = {
            "unload_all_models": self._unload,
            "soft_empty_cache": lambda: None,
            "throw_exception_if_processing_interrupted": self._check,
        }
        modules = {
            "comfy": {},
            "comfy.model_management": memory,
            "comfy.utils": {
                "ProgressBar": lambda total: SimpleNamespace(update_absolute=self._tell)
            },
            "comfy_api": {},
            "comfy_api.latest": {"InputImpl": SimpleNamespace(VideoFromFile=lambda path: path)},
            "folder_paths": {
                "get_output_directory": lambda: str(output),
                "get_save_image_path": self._name,
            },
        }
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            if "." in name:
                parent, _, child = name.rpartition(".")
                setattr(sys.modules[parent], child, module)

    def _unload(self) -> None:
        self.unloaded += 1

    def _tell(self, done: int, total: int, preview: Any) -> None:
        self.told.append((done, total, preview[1].size))

    def _check(self) -> None:
        if self.cancel_after is not None and len(self.told) >= self.cancel_after:
            raise Cancelled

    def _name(self, prefix: str, output: str, width: int, height: int) -> Any:
        folder, name = Path(output) / Path(prefix).parent, Path(prefix).name
        folder.mkdir(exist_ok=True)
        number = 1 + max((int(p.name.split("_")[1]) for p in folder.glob(f"{name}_*")), default=0)
        return str(folder), name, number, str(Path(prefix).parent), prefix


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    return Comfy(tmp_path, monkeypatch)


def made(model: Path, **given: Any) -> dict[str, Any]:
    asked = {"prompt": "a red ball", "seconds": 2.0, "policy": "sink:window=9", "seed": 3}
    asked |= {"model": str(model), "filename_prefix": "video/toy"}
    with torch.inference_mode():  # as ComfyUI does
        return TetherCacheGenerate().generate(**asked | given)


def test_a_video_is_in_the_output_folder_with_its_record(comfy: Comfy, model: Path) -> None:
    threads = torch.get_num_threads()
    result = made(model)
    path = comfy.output / "video/toy_00001_.mp4"
    shown = {"filename": path.name, "subfolder": "video", "type": "output"}
    assert result["ui"]["images"] == [shown]
    assert result["result"] == (str(path),)
    assert probe(path).num_frames == 32
    assert request_of(path).seed == 3
    assert comfy.told == [(n, 3, (16, 16)) for n in (1, 2, 3)]
    assert comfy.unloaded == 1, "ComfyUI's models make room"
    assert torch.get_num_threads() == threads
    made(model, seed=4)
    assert (comfy.output / "video/toy_00002_.mp4").exists()


def test_a_cancelled_video_goes_on_and_ends_as_the_same_frames(
    comfy: Comfy, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "LEAST_SECONDS", 0)
    monkeypatch.setattr(durable, "SHARE", 1e9)
    long = {"seconds": 10.0}
    made(model, **long, filename_prefix="video/whole")
    comfy.told.clear()
    comfy.cancel_after = 8
    with pytest.raises(Cancelled):
        made(model, **long)
    path = comfy.output / "video/toy_00001_.mp4"
    assert not path.exists()
    assert probe(partial_path(path)).num_frames == 8 * 12 - 3
    comfy.cancel_after = None
    made(model, **long, seed=4)  # another request has another name
    assert (comfy.output / "video/toy_00002_.mp4").exists()
    comfy.told.clear()
    made(model, **long)
    assert comfy.told[0][0] > 1, "it has begun anew"
    whole = read_sidecar(comfy.output / "video/whole_00001_.mp4")
    assert read_sidecar(path).frames_hash == whole.frames_hash
    assert not partial_path(path).exists()


def test_cancel_is_heard_between_two_passes_of_a_chunk(comfy: Comfy, model: Path) -> None:
    comfy.cancel_after = 0
    with pytest.raises(Cancelled):
        made(model)
    assert comfy.told == []
    assert not list(comfy.output.rglob("*.mp4"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": " "}, "the prompt must not be empty"),
        ({"seconds": 0.0}, "`seconds`"),
        ({"policy": "sink:window=2"}, "`window` (2)"),
        ({"policy": "nonsense"}, "nonsense"),
        ({"model": "./no/such/model.pt"}, "no model at `./no/such/model.pt`"),
        ({"model": "nothing"}, "no model at `nothing`"),
        ({"then": "20 slowly: a cube"}, "`how` (slowly) must be soft, recache or cut"),
        ({"then": "a cube"}, "must have the form SECOND: TEXT"),
        ({"then": "20: a cube"}, "20"),
        ({"dtype": "float7"}, "`dtype`"),
        ({"seed": -(2**70)}, "`seed`"),
    ],
)
def test_what_cannot_be_is_said_when_the_workflow_is_queued(
    given: dict[str, Any], words: str
) -> None:
    said = TetherCacheGenerate.VALIDATE_INPUTS(**given)
    assert said is not True
    assert words in str(said)


def test_inputs_that_other_nodes_make_are_left_for_later() -> None:
    assert TetherCacheGenerate.VALIDATE_INPUTS() is True
    assert TetherCacheGenerate.VALIDATE_INPUTS(seconds=30, then="20 cut: a blue cube") is True


@pytest.mark.parametrize(
    "file", sorted((FOLDER / "workflows").glob("*.json")), ids=lambda f: f.stem
)
def test_workflows_give_our_nodes_what_they_ask_for(file: Path) -> None:
    graph = json.loads(file.read_text())
    ours = [node for node in graph.values() if node["class_type"] in NODE_CLASS_MAPPINGS]
    assert ours
    for node in ours:
        asked = NODE_CLASS_MAPPINGS[node["class_type"]].INPUT_TYPES()
        assert set(asked["required"]) <= set(node["inputs"])
        assert set(node["inputs"]) <= set(asked["required"]) | set(asked.get("optional", {}))
    links = [v for node in graph.values() for v in node["inputs"].values() if isinstance(v, list)]
    assert all(source in graph for source, _ in links)


def test_text_and_frames_of_the_shipped_kind() -> None:
    pipe = toy_pipeline()
    text = Text(pipe)
    ((embeds, about),) = text.encode_from_tokens_scheduled(text.tokenize("a red ball"))
    assert torch.equal(embeds, pipe.encode_prompt(["a red ball"]))
    assert about == {}
    latents = torch.randn(2, 4, 5, 4, 4)
    frames = Frames(pipe).decode(latents)
    assert frames.shape == (2, 17, 16, 16, 3)
    whole = pipe.decoder().decode(latents) / 2 + 0.5
    assert torch.allclose(frames, whole.clamp(0, 1).movedim(1, -1), atol=1e-5)


def test_a_checkpoint_is_marked_as_causal_and_stays_what_it_was(tmp_path: Path) -> None:
    tensors = {"blocks.0.self_attn.q.weight": torch.randn(2, 2)}
    about = {"config": json.dumps({"transformer": {"dim": 2}, "vae": 1}), "author": "me"}
    save_file(tensors, tmp_path / "a.safetensors", about)
    mark(tmp_path / "a.safetensors", tmp_path / "b.safetensors", num_heads=1)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor(*tensors), *tensors.values())
    assert metadata["author"] == "me"
    transformer = {"dim": 2, "causal_ar": True, "num_heads": 1}
    assert json.loads(metadata["config"]) == {"transformer": transformer, "vae": 1}
    save_file({"unet": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="holds no Wan model"):
        mark(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
