"""The guard goes back where a video drifts, comes to an end, and leaves a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tethercache as tc
from tests.render.test_durable import Run, loaded_for
from tethercache.policies import as_policy
from tethercache.render import guard as module
from tethercache.render.batch import Resume
from tethercache.render.guard import (
    REACTIONS,
    Situation,
    commit_read,
    other_noise,
    stronger_alignment,
)
from tethercache.render.recording import Recording
from tethercache.video import Sidecar, read_sidecar

PROMPT = "a red ball rolling over grass"
CHUNKS = 40  # 29.8 seconds


@pytest.fixture(scope="module")
def request_(model: Path) -> tc.VideoRequest:
    return tc.VideoRequest(
        PROMPT,
        latent_frames=3 * CHUNKS,
        model=str(model),
        device="cpu",
        snapshot_every=0.0,
        guard=True,
    )


Judge = Callable[[Recording], bool]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Judge], None]:
    """Let a function say whether a video drifts; toy frames mean nothing to the real one."""

    def install(judge: Judge) -> None:
        def verdict(self: Recording, without: Any = ()) -> Any:
            return SimpleNamespace(
                word="drifting" if judge(self) else "stable", reasons=("colour: too much",)
            )

        monkeypatch.setattr(Recording, "judge", verdict)

    return install


def events(record: Sidecar) -> list[tuple[float, float, str]]:
    """When drift was found, where the video went back to, and what was tried."""
    return [
        (event["found_at"], event.get("back_to", -1.0), event["reaction"])
        for event in record.settings.get("guard", [])
    ]


@pytest.mark.slow
def test_a_video_without_drift_is_the_one_without_a_guard(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path
) -> None:
    judged(lambda recording: False)
    files = []
    for name, guard in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        run = Run(loaded_for(dataclasses.replace(request_, guard=guard)), tmp_path / name)
        record = run()
        assert events(record) == []
        files.append(run.path.read_bytes())
    assert files[0] == files[1]


def test_it_goes_back_to_a_good_state_and_does_otherwise(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path
) -> None:
    tries = []

    def judge(recording: Recording) -> bool:
        tries.append(recording.seconds)
        return recording.seconds > 20 and tries.count(recording.seconds) == 1

    judged(judge)
    run = Run(loaded_for(request_), tmp_path)
    record = run()
    ((found, back, reaction),) = events(record)
    assert reaction == "other noise"
    assert 20 + module.PATIENCE <= found <= 20 + module.PATIENCE + 5
    assert 0 < back <= found - module.PROOF
    assert any("drift at second" in text for text in run.said)
    plain = tmp_path / "plain"
    plain.mkdir()
    other = Run(loaded_for(dataclasses.replace(request_, guard=False)), plain)
    before = other()
    chunk = round((back * 16 + 3) / 12)
    assert record.chunk_hashes[:chunk] == before.chunk_hashes[:chunk]
    assert all(
        a != b
        for a, b in zip(record.chunk_hashes[chunk:], before.chunk_hashes[chunk:], strict=True)
    )


@pytest.mark.slow
def test_it_tries_each_reaction_once_and_comes_to_an_end(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path
) -> None:
    judged(lambda recording: recording.seconds > 12)
    run = Run(loaded_for(request_), tmp_path)
    record = run()
    assert record.is_complete
    assert record.num_frames == 477
    names = [reaction for _, _, reaction in events(record)]
    assert names == [*REACTIONS, "none is left"][: len(names)]
    assert names[:3] == list(REACTIONS)


@pytest.mark.slow
def test_drift_from_the_start_goes_back_to_the_start(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path
) -> None:
    seen = []

    def judge(recording: Recording) -> bool:
        seen.append(recording.seconds)
        return len(seen) < 6

    judged(judge)
    record = Run(loaded_for(request_), tmp_path)()
    assert events(record)[0][1] == 0.0


@pytest.mark.parametrize(
    "until", [21, *(pytest.param(n, marks=pytest.mark.slow) for n in (26, 34))]
)
def test_a_guarded_video_that_broke_off_goes_on(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path, until: int
) -> None:
    """The same file, wherever it breaks: what the guard knows is in the snapshot."""
    judged(lambda recording: 19 < recording.seconds < 26)
    files = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        run = Run(loaded_for(request_), tmp_path / name)
        if name == "cut":
            run.broken(until)
        record = run(resume=Resume.YES)
        files.append((run.path.read_bytes(), events(record)))
    assert run.went_on_at > 0
    assert files[0] == files[1]
    assert files[0][1]


@pytest.mark.slow
def test_the_frames_do_not_depend_on_overlap(
    request_: tc.VideoRequest, judged: Callable[[Judge], None], tmp_path: Path
) -> None:
    judged(lambda recording: 19 < recording.seconds < 26)
    files = []
    for overlap in ("on", "off"):
        (tmp_path / overlap).mkdir()
        loaded = loaded_for(dataclasses.replace(request_, overlap=overlap))
        run = Run(loaded, tmp_path / overlap)
        run()
        files.append((run.path.read_bytes(), events(read_sidecar(run.path))))
    assert files[0] == files[1]


def test_reactions() -> None:
    here = Situation(12.5, 7, "tethercache:tau=0.4")
    noise = other_noise(here)
    assert noise is not None
    assert noise.seed not in (None, 7)
    assert noise == other_noise(here)
    read = commit_read(here)
    assert read is not None
    assert as_policy(str(read.policy)) == as_policy("tethercache:tau=0.4 + commit-read")
    assert commit_read(dataclasses.replace(here, policy=str(read.policy))) is None
    stronger = stronger_alignment(dataclasses.replace(here, policy=str(read.policy)))
    assert stronger is not None
    assert as_policy(str(stronger.policy)) == as_policy("tethercache:tau=0.8 + commit-read")
    assert stronger_alignment(dataclasses.replace(here, policy="fifo")) is None
    assert stronger_alignment(dataclasses.replace(here, policy="tethercache:tau=1")) is None
    for change in (noise, read, stronger):
        assert change.at == 12.5
