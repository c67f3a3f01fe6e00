"""The nodes in a real ComfyUI, headless, on the CPU: its own sampler, server and files.

ComfyUI is on no package index, so it cannot be set up here. `TETHERCACHE_COMFYUI` says where a
checkout is, and `TETHERCACHE_COMFYUI_PYTHON` which Python runs it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from integrations.comfyui.mark_causal import mark
from tests.conftest import ROOT
from tests.models.checkpoints.made import CONFIG, GOLDEN, plain
from tethercache.render.snapshots import snapshot_folder
from tethercache.video import probe, read_frames, read_sidecar
from tethercache.video.target import partial_path

pytestmark = pytest.mark.slow
PACK = ROOT / "integrations/comfyui"
PATIENCE = 600
"""Seconds."""


@dataclass(frozen=True)
class Installed:
    checkout: Path
    python: str

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        command = [self.python, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, text=True, **options)


@pytest.fixture(scope="module")
def installed() -> Installed:
    checkout = os.environ.get("TETHERCACHE_COMFYUI")
    if not checkout:
        pytest.skip("ComfyUI is not installed; TETHERCACHE_COMFYUI would say where its checkout is")
    usual = Path(checkout) / ".venv/bin/python"
    return Installed(Path(checkout), os.environ.get("TETHERCACHE_COMFYUI_PYTHON", str(usual)))


@dataclass(frozen=True)
class Server:
    address: str
    output: Path

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def queue(self, name: str, **changes: Any) -> str:
        """Post a workflow of the pack; a change is `NODE_INPUT=value`."""
        graph = json.loads((PACK / f"workflows/{name}.json").read_text())
        for place, value in changes.items():
            node, _, key = place.removeprefix("node").partition("_")
            graph[node]["inputs"][key] = value
        return str(self.ask("/prompt", {"prompt": graph})["prompt_id"])

    def finished(self, number: str) -> Any:
        """What the history says of a workflow, when it is over."""
        until(lambda: self.ask(f"/history/{number}"))
        return self.ask(f"/history/{number}")[number]

    def video(self, number: str) -> Path:
        told = self.finished(number)
        assert told["status"]["status_str"] == "success", told["status"]
        ((shown,),) = (outputs["images"] for outputs in told["outputs"].values())
        return self.output / shown["subfolder"] / shown["filename"]


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it has taken too long"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes/tethercache").symlink_to(PACK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        (base / "log").open("w") as log,
        ended(
            installed.run(
                *("main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)),
                *("--base-directory", base, "--database-url", "sqlite:///:memory:"),
                *("--disable-auto-launch", "--disable-api-nodes"),
                cwd=installed.checkout,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        ) as process,
    ):
        made = Server(f"http://127.0.0.1:{port}", base / "output")

        def is_up() -> bool:
            assert process.poll() is None, (base / "log").read_text()[-5000:]
            try:
                made.ask("/system_stats")
            except OSError:
                return False
            return True

        until(is_up)
        yield made


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def shows_a_red_ball_on_grass(path: Path) -> bool:
    frames = np.stack(list(read_frames(path))).astype(int)
    red, green, blue = frames[..., 0], frames[..., 1], frames[..., 2]
    ball = ((red > 150) & (green < 90) & (blue < 90)).mean(axis=(1, 2))
    grass = ((green > red + 10) & (green > blue + 10)).mean(axis=(1, 2))
    return bool(np.median(ball) > 0.05 and np.median(grass) > 0.2)


def test_the_sampler_is_the_same_within_the_window_and_ours_beyond_it(
    installed: Installed, tmp_path: Path
) -> None:
    save_file(plain(), tmp_path / "plain.safetensors")
    text_dim = plain()["text_embedding.0.weight"].shape[1]
    sizes = {"num_heads": CONFIG["num_heads"], "text_dim": text_dim}
    mark(tmp_path / "plain.safetensors", tmp_path / "causal.safetensors", **sizes)
    script = Path(__file__).with_name("in_comfyui.py")
    arguments = (script, installed.checkout, tmp_path / "causal.safetensors", GOLDEN)
    with ended(installed.run(*arguments, stdout=subprocess.PIPE)) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    found = json.loads(output.splitlines()[-1])
    assert found["model"] == "CausalWanModel"
    assert found["within"] < 1e-5
    assert found["beyond"] < 1e-5
    assert found["policy matters"] > 1e-3
    assert found["unpatched again"] == 0
    assert found["left"] == []
    assert "Sampler AR Video" in found["refusal"]


def test_the_policy_workflow_makes_its_video(server: Server) -> None:
    path = server.video(server.queue("policy", node4_length=93))
    video = probe(path)
    assert (video.num_frames, video.width, video.height) == (93, 64, 64)
    assert shows_a_red_ball_on_grass(path)


def test_the_generate_workflow_makes_its_video(server: Server, installed: Installed) -> None:
    path = server.video(server.queue("generate", node1_seconds=6))
    video = probe(path)
    assert (video.num_frames, video.width, video.height, video.fps) == (96, 64, 64, 16)
    assert shows_a_red_ball_on_grass(path)
    again = installed.run("-m", "tethercache", "reproduce", path, cwd=ROOT)
    assert again.wait(PATIENCE) == 0


def test_a_cancelled_workflow_goes_on_when_it_is_queued_again(server: Server) -> None:
    asked = {"node1_seconds": 60, "node1_filename_prefix": "long/ball"}
    path = server.output / "long/ball_00001_.mp4"
    number = server.queue("generate", **asked)
    until(lambda: any(snapshot_folder(path).glob("*")))
    server.ask("/interrupt", {})
    told = server.finished(number)["status"]["messages"]
    assert "execution_interrupted" in [kind for kind, _ in told]
    assert 0 < probe(partial_path(path)).num_frames < 960
    assert server.video(server.queue("generate", **asked)) == path
    assert probe(path).num_frames == read_sidecar(path).num_frames == 960
    assert not partial_path(path).exists()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("policy", {"node2_policy": "sink:window=2"}, "`window` (2) must be larger"),
        ("generate", {"node1_policy": "nonsense"}, "nonsense"),
        ("generate", {"node1_model": "nothing"}, "no model at `nothing`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    server: Server, name: str, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.queue(name, **change)
    assert words in refused.value.read().decode()
