"""Nothing is measured twice, nothing stored is believed unseen, and no video ends the others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation import files
from tests.evaluation.scenes import write
from tethercache.evaluation import stored
from tethercache.evaluation.inputs import Input, find_inputs
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import Skipped, VideoResult
from tethercache.evaluation.stored import Outcome, measure_all


def evaluate(path: Path, store: Path, options: Options | None = None) -> Outcome:
    (outcome,) = measure_all(find_inputs([path]), options or Options(), store=store)
    return outcome


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mp4", seconds=2)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "finished").mkdir()
    return tmp_path / "finished"


def test_a_finished_video_is_not_measured_again_unless_something_changed(
    video: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(video, store)
    assert not first.reused
    again = evaluate(video, store)
    assert again.reused
    assert again.result == first.result
    video = video.rename(video.with_name("b.mp4"))
    renamed = evaluate(video, store)
    assert renamed.reused
    assert renamed.result.name == "b.mp4"
    assert not evaluate(video, store, Options(every=3)).reused
    monkeypatch.setattr("tethercache.evaluation.metrics.colour.Luma.version", 2)
    assert not evaluate(video, store).reused


def tampered(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: record | {name: value}


_SCRIPT = '"><script>alert(1)</script>'
TAMPERED = {
    "thumbnail": tampered("thumbnails", [_SCRIPT]),
    "base64, no picture": tampered("thumbnails", ["aGVsbG8="]),
    "verdict": tampered("verdict", _SCRIPT),
    "component": tampered("components", {"colour": _SCRIPT}),
    "metric": tampered("metrics", {_SCRIPT: 1.0}),
    "text for a number": tampered("metrics", {"chroma": "1"}),
    "not finite": tampered("metrics", {"chroma": float("nan")}),
    "truth for a number": tampered("metrics", {"chroma": True}),
    "huge": tampered("metrics", {"chroma": 10**400}),
    "list": tampered("curves", []),
    "another video": tampered("sha256", "0" * 64),
    "no size": tampered("video", {}),
    "size": tampered("video", {"width": "x"}),
    "edit": tampered("edits", [{"kind": _SCRIPT, "begin": 0.0, "end": 1.0}]),
    "edit without an end": tampered("edits", [{"kind": "cut", "begin": 0.0}]),
    "worst": tampered("worst", {"chroma": {"change": _SCRIPT}}),
    "missing": lambda record: {k: v for k, v in record.items() if k != "onset"},
    "unknown": tampered("extra", 1),
    "a list": lambda record: [record],  # type: ignore[dict-item]
}


@pytest.mark.parametrize("checksum", ["old", "new"])
@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_stored_result_that_was_changed_is_measured_again(
    video: Path,
    store: Path,
    change: Callable[[dict[str, Any]], Any],
    checksum: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = evaluate(video, store)
    (kept,) = store.iterdir()
    record = change(json.loads(kept.read_text()))
    if checksum == "new" and isinstance(record, dict):
        del record["checksum"]
        record["checksum"] = stored._checksum(record)
    kept.write_text(json.dumps(record))
    monkeypatch.setattr(stored, "measure_video", lambda path, options: first.result)
    again = evaluate(video, store)
    assert not again.reused
    assert again.result == first.result
    assert "a.mp4 was measured again: its stored result is damaged" in again.note
    assert evaluate(video, store).reused


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]"])
def test_a_damaged_stored_result_is_measured_again(
    video: Path, store: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(video, store)
    (kept,) = store.iterdir()
    kept.write_bytes(content)
    monkeypatch.setattr(stored, "measure_video", lambda path, options: first.result)
    assert "is damaged" in evaluate(video, store).note


def test_a_stored_result_is_not_written_through_a_link_nor_read_from_a_pipe(
    video: Path, store: Path, tmp_path: Path
) -> None:
    evaluate(video, store)
    (kept,) = store.iterdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    kept.unlink()
    kept.symlink_to(victim)
    assert not evaluate(video, store).reused
    assert victim.read_text() == "mine"
    kept.unlink()
    os.mkfifo(kept)
    assert not evaluate(video, store).reused
    assert evaluate(video, store).reused


def test_a_video_that_fails_unexpectedly_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [files.encode(tmp_path / "a.mp4"), files.encode(tmp_path / "b.mp4")]
    inputs = [*find_inputs(paths), Input(tmp_path / "p", "p", "p", "is a broken link")]

    def failing(path: Path, options: Options) -> VideoResult:
        if path == paths[0]:
            raise RuntimeError("of a\nlibrary")
        return measure_video(path, options)

    monkeypatch.setattr(stored, "measure_video", failing)
    first, second, third = (outcome.result for outcome in measure_all(inputs, Options()))
    assert isinstance(first, Skipped)
    assert first.reason == "could not be measured: RuntimeError: of a library"
    assert isinstance(second, VideoResult)
    assert isinstance(third, Skipped)
    assert third.reason == "is a broken link"


def test_a_result_that_cannot_be_stored_is_reported_all_the_same(
    video: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "write_atomically", full)
    outcome = evaluate(video, store)
    assert isinstance(outcome.result, VideoResult)
    assert "could not be stored: No space left" in outcome.note


def dies_on_one(each: Input, options: Options, store: Path | None) -> Outcome:
    if each.name == "b.mp4":
        os._exit(11)
    return Outcome(Skipped(each.name, each.shown, "was seen"))


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_there_may_be_nothing_to_measure(jobs: int) -> None:
    """As where there are no baselines."""
    assert list(measure_all([], Options(), jobs=jobs)) == []


@pytest.mark.slow
def test_several_jobs_find_the_same_and_survive_the_end_of_one(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [scenes["none"], scenes["blur"], files.empty(tmp_path / "empty.mp4")]
    inputs = find_inputs(paths)
    found = {o.result.name: o.result for o in measure_all(inputs, Options(every=4), jobs=2)}
    assert isinstance(found["empty.mp4"], Skipped)
    for path in paths[:2]:
        alone = measure_video(path, Options(every=4))
        result = found[path.name]
        assert isinstance(result, VideoResult)
        assert result.metrics == pytest.approx(alone.metrics, rel=1e-6, abs=1e-9)
    monkeypatch.setattr(stored, "_outcome", dies_on_one)
    named = [Input(tmp_path / name, name, name) for name in ("a.mp4", "b.mp4")]
    outcomes = measure_all(named, Options(), jobs=2)
    reasons = {o.result.name: getattr(o.result, "reason", "") for o in outcomes}
    assert reasons == {"a.mp4": "was seen", "b.mp4": "ended the process that measured it"}
