"""A request becomes a video in one call of Python, as it does on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import tethercache as tc
from tests.cli.test_generate import generate
from tethercache.errors import NotEnoughMemoryError
from tethercache.fit import choice
from tethercache.pipeline import CausalVideoPipeline
from tethercache.render import check, load, prepare, request_of
from tethercache.video import probe, read_sidecar, write_sidecar

PROMPT = "a red ball rolling over grass"


@pytest.fixture
def request_(model: Path) -> tc.VideoRequest:
    return tc.VideoRequest(PROMPT, latent_frames=6, model=str(model), seed=3, device="cpu")


def test_python_gets_what_the_command_line_gets(
    request_: tc.VideoRequest, model: Path, tmp_path: Path
) -> None:
    record = tc.make(request_, tmp_path / "a.mp4")
    options = ("--model", model, "--latent-frames", 6, "--seed", 3, "--device", "cpu")
    assert generate(PROMPT, *options, "-o", tmp_path / "b.mp4") == 0
    a, b = (read_sidecar(tmp_path / name) for name in ("a.mp4", "b.mp4"))
    assert record == a
    assert probe(tmp_path / "a.mp4").num_frames == record.num_frames == 21
    same = {"command": (), "wall_seconds": 0.0, "frames_per_second": 0.0}
    assert dataclasses.replace(a, **same) == dataclasses.replace(b, **same)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_record_holds_its_request(request_: tc.VideoRequest, tmp_path: Path) -> None:
    record = tc.make(request_, tmp_path / "a.mp4")
    assert record.request["model"] != request_.model  # a path of this machine
    again = request_of(tmp_path / "a.mp4")
    assert again == request_
    assert tc.make(again, tmp_path / "b.mp4").frames_hash == record.frames_hash


def test_a_request_is_made_of_a_record_of_the_first_version(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    record = tc.make(request_, tmp_path / "a.mp4")
    path = write_sidecar(tmp_path / "a.mp4", record)
    old = json.loads(path.read_text("utf-8")) | {"schema_version": 1}
    del old["request"]
    path.write_text(json.dumps(old))
    assert read_sidecar(path).request == {}
    again = request_of(path)
    assert again.seconds == 21 / 16
    assert again.policy == record.policy
    assert tc.make(again, tmp_path / "b.mp4").frames_hash == record.frames_hash
    for damage in ({"loras": [{}]}, {"loras": 3}, {"loras": "a"}, {"prefix": []}, {"prefix": 1.5}):
        path.write_text(json.dumps(old | {"settings": damage}))
        with pytest.raises(ValueError, match="the record's adapters or prefix are damaged"):
            request_of(path)


def test_a_model_is_loaded_once_for_several_videos(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    other = dataclasses.replace(request_, prompt="a blue ball", seed=4)
    loaded = load(prepare(check(request_)), [PROMPT, "a blue ball"])
    assert loaded.pipe.text_encoder is None
    told: list[int] = []
    first = loaded.make(request_, tmp_path / "a.mp4", told=lambda r: told.append(r.num_frames))
    second = loaded.make(other, tmp_path / "b.mp4")
    assert told == [9, 21]
    assert (second.prompt, second.seed) == ("a blue ball", 4)
    assert second.frames_hash == tc.make(other, tmp_path / "c.mp4").frames_hash
    assert second.frames_hash != first.frames_hash
    with pytest.raises(ValueError, match="was not encoded"):
        loaded.render(dataclasses.replace(request_, prompt="sand"))
    with pytest.raises(ValueError, match="differs from the one"):
        loaded.render(dataclasses.replace(request_, policy="fifo"))


def test_frames_come_chunk_by_chunk_and_a_video_may_be_left(
    request_: tc.VideoRequest,
) -> None:
    loaded = load(prepare(check(request_)), [PROMPT])
    render = loaded.render(request_)
    assert render.plan.chunks.num_chunks == 2
    assert next(render).shape == (9, 16, 16, 3)
    render.close()
    assert [len(frames) for frames in loaded.render(request_)] == [9, 12]


def test_what_does_not_fit_is_refused_before_weights_load(
    request_: tc.VideoRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "free_memory", lambda device: (1000, None))
    monkeypatch.setattr(CausalVideoPipeline, "from_pretrained", None)
    with pytest.raises(NotEnoughMemoryError, match="are free on cpu"):
        tc.make(request_, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_the_drift_that_was_watched_is_in_the_record(
    request_: tc.VideoRequest, tmp_path: Path
) -> None:
    pytest.importorskip("cv2", reason="evaluation is an extra")
    watched = dataclasses.replace(request_, watch_drift=True)
    record = tc.make(watched, tmp_path / "a.mp4")
    assert {"verdict", "changes", "onset"} <= record.settings["drift"].keys()
