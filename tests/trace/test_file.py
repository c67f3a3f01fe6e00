"""The file of a trace: whole after every chunk, and whatever becomes of its video on the way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tethercache as tc
from tests.render.test_durable import Run, loaded_for
from tethercache.render.batch import Resume
from tethercache.render.branch import begin_branch, plan_branch
from tethercache.render.durable import OtherRequestError
from tethercache.render.loading import Loaded
from tethercache.render.snapshots import snapshot_folder
from tethercache.trace.file import (
    DamagedTraceError,
    LostTraceError,
    TraceWriter,
    copy_start,
    read_trace,
    trace_path,
)
from tethercache.video import read_sidecar
from tethercache.video.target import partial_path

PROMPT = "a red ball rolling over grass"


@pytest.fixture(scope="module")
def loaded(model: Path) -> Loaded:
    request = tc.VideoRequest(
        PROMPT,
        latent_frames=42,
        model=str(model),
        policy="tethercache:sink=1,memory=4,recent=4",
        device="cpu",
        snapshot_every=0.0,
        trace=True,
    )
    return loaded_for(request)


@pytest.fixture(scope="module")
def whole(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(loaded, tmp_path_factory.mktemp("whole"))
    run()
    return run.path


@pytest.fixture
def run(loaded: Loaded, tmp_path: Path) -> Run:
    return Run(loaded, tmp_path)


def test_beside_the_video_is_its_trace(whole: Path) -> None:
    header, chunks = read_trace(trace_path(whole))
    found, record = list(chunks), read_sidecar(whole)
    assert (header["format"], header["version"]) == ("tethercache-trace", 1)
    assert (header["policy"], header["prompt"]) == (record.policy, PROMPT)
    assert (header["budget"], header["fps"]) == (9, 16)
    assert [chunk["chunk"] for chunk in found] == [*range(14)]
    assert [chunk["sha256"] for chunk in found] == [*record.chunk_hashes]
    assert found[-1]["stop"] == 42
    lines = gzip.decompress(trace_path(whole).read_bytes()).decode().splitlines()
    assert len(lines) == 15
    assert json.loads(lines[-1]) == found[-1]


@pytest.mark.parametrize(
    "until",
    [pytest.param(2, marks=pytest.mark.slow), 7, pytest.param(11, marks=pytest.mark.slow)],
)
def test_a_video_that_broke_off_has_a_whole_trace_in_the_end(
    run: Run, whole: Path, until: int
) -> None:
    run.broken(until)
    _, chunks = read_trace(trace_path(partial_path(run.path)))
    assert len(list(chunks)) == until
    run(resume=Resume.YES)
    assert trace_path(run.path).read_bytes() == trace_path(whole).read_bytes()
    assert not trace_path(partial_path(run.path)).exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"")])
def test_where_the_trace_is_lost_all_is_made_again(
    run: Run, whole: Path, damage: Callable[[Path], Any]
) -> None:
    run.broken(9)
    damage(trace_path(partial_path(run.path)))
    run(resume=Resume.YES)
    assert "beginning anew" in run.said[-1]
    assert trace_path(run.path).read_bytes() == trace_path(whole).read_bytes()


def test_half_a_trace_is_refused(run: Run) -> None:
    run.broken(9)
    untraced = replace(run.loaded.order.request, trace=False)
    other = replace(run.loaded, order=replace(run.loaded.order, request=untraced))
    with pytest.raises(OtherRequestError, match="whether it has a trace"):
        Run(other, run.path.parent)(resume=Resume.YES)


@pytest.mark.slow
def test_a_video_that_replaces_another_takes_its_trace_away(run: Run) -> None:
    run()
    untraced = replace(run.loaded.order.request, trace=False)
    other = replace(run.loaded, order=replace(run.loaded.order, request=untraced))
    with pytest.raises(FileExistsError):
        run()
    Run(other, run.path.parent)(overwrite=True)
    assert not trace_path(run.path).exists()


@pytest.mark.slow
def test_a_branch_has_the_trace_of_its_parent_up_to_there(loaded: Loaded, tmp_path: Path) -> None:
    request = replace(loaded.order.request, snapshot_budget=1.0)
    parent, child = tmp_path / "parent.mp4", tmp_path / "child.mp4"
    keeping = replace(loaded, order=replace(loaded.order, request=request))
    keeping.make(request, parent)
    assert snapshot_folder(parent).is_dir()
    for lost in (False, True):
        point = plan_branch(parent, 6.0, child, seed=5)
        assert point.snapshot is not None
        if lost:
            trace_path(parent).unlink()
        begin_branch(point, overwrite=True)
        again = loaded_for(point.job.request)
        again.make(point.job.request, child, resume=Resume.YES, overwrite=True)
        chunks = list(read_trace(trace_path(child))[1])
        assert [chunk["sha256"] for chunk in chunks] == [*read_sidecar(child).chunk_hashes]
        if not lost:
            before = list(read_trace(trace_path(parent))[1])
            same = [a == b for a, b in zip(chunks, before, strict=True)]
            assert same == [True] * point.border.chunk + [False] * (14 - point.border.chunk)


def test_what_is_no_trace_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.trace.jsonl.gz"
    with pytest.raises(FileNotFoundError):
        read_trace(path)
    for content in (b"", b"no gzip", gzip.compress(b"[]\n"), gzip.compress(b'{"format": "x"}\n')):
        path.write_bytes(content)
        with pytest.raises(DamagedTraceError):
            read_trace(path)
    path.write_bytes(gzip.compress(b'{"format": "tethercache-trace", "version": 2}\n'))
    with pytest.raises(DamagedTraceError, match="version 2"):
        read_trace(path)
    head = gzip.compress(b'{"format": "tethercache-trace", "version": 1}\n')
    chunk = {"chunk": 1, "start": 0, "stop": 3, "layers": []}
    path.write_bytes(head + gzip.compress(json.dumps(chunk).encode() + b"\n"))
    with pytest.raises(DamagedTraceError, match="chunk 0"):
        list(read_trace(path)[1])


def test_a_trace_is_cut_back_and_what_is_broken_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.trace.jsonl.gz"
    writer, places = TraceWriter(path, {}), []
    for chunk in range(3):
        places.append(writer.position)
        writer.write({"chunk": chunk, "start": chunk, "stop": chunk + 1, "layers": []})
    writer.close()
    content = path.read_bytes()
    for size in range(places[2], len(content)):
        path.write_bytes(content[:size])
        assert len(list(read_trace(path)[1])) in ((2,) if size < len(content) - 8 else (2, 3))
    again = TraceWriter(path, {}, start=places[1])
    again.close()
    assert path.read_bytes() == content[: places[1]]
    with pytest.raises(LostTraceError, match="lost its end"):
        copy_start(path, tmp_path / "b", places[2])
    assert not (tmp_path / "b").exists()
