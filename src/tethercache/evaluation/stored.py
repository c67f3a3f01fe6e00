"""Many videos to results: each alone, so that none ends the others, and none is measured twice."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2

from tethercache.arguments import fits
from tethercache.evaluation.images import file_hash
from tethercache.evaluation.inputs import Input
from tethercache.evaluation.measure import SkippedVideoError, measure_video
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.options import Options
from tethercache.evaluation.result import Skipped, VideoResult
from tethercache.evaluation.shots import EditKind
from tethercache.evaluation.verdict import Word
from tethercache.files import read_object, write_atomically
from tethercache.text import reason

logger = logging.getLogger(__name__)

_LARGEST = 64 << 20  # bytes of a stored result; an hour of video has about one million
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        result: its measurements, or why there are none.
        reused: it was stored, and not measured again.
        note: what was wrong with the stored result.
    """

    result: VideoResult | Skipped
    reused: bool = False
    note: str = ""


def measure_all(
    inputs: Sequence[Input], options: Options, *, jobs: int = 1, store: Path | None = None
) -> Iterator[Outcome]:
    """Evaluate many videos; one that cannot be is skipped, and the rest goes on.

    Args:
        inputs: the videos.
        options: of the measurement.
        jobs: processes.
        store: a folder of finished results, by the hash of file and options, that are not measured
            again.

    Yields:
        A result for each, in the order in which they are finished.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` ({jobs}) must be at least 1")
    if jobs == 1 or len(inputs) <= 1:
        for each in inputs:
            yield _outcome(each, options, store)
        return
    done = set()
    try:
        for each, outcome in _in_processes(inputs, options, store, jobs):
            done.add(each)
            yield outcome
    except BrokenProcessPool:  # by one of those that are left, so each gets a process of its own
        for each in inputs:
            if each not in done:
                yield _alone(each, options, store)


def _in_processes(
    inputs: Sequence[Input], options: Options, store: Path | None, jobs: int
) -> Iterator[tuple[Input, Outcome]]:
    with ProcessPoolExecutor(
        min(jobs, len(inputs)), mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        with _no_ctrl_c():
            futures = {pool.submit(_outcome, each, options, store): each for each in inputs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _alone(each: Input, options: Options, store: Path | None) -> Outcome:
    try:
        ((_, outcome),) = _in_processes([each], options, store, 1)
        return outcome
    except BrokenProcessPool:
        return _skipped(each, "ended the process that measured it")


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Let processes that are started in the block never see Ctrl-C: this one answers it.

    If it comes in the block, it takes effect after it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_thread() -> None:
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def _outcome(each: Input, options: Options, store: Path | None) -> Outcome:
    if each.problem:
        return _skipped(each, each.problem)
    try:
        return _stored(each, options, store)
    except SkippedVideoError as error:
        return _skipped(each, str(error))
    except OSError as error:
        return _skipped(each, reason(error))
    except Exception as error:  # a fault of ours or of a library ends this video alone
        logger.debug("%s", each.path, exc_info=True)
        told = f"could not be measured: {type(error).__name__}: {reason(error)}"
        return _skipped(each, told)


def _skipped(each: Input, reason: str) -> Outcome:
    return Outcome(Skipped(each.name, each.shown, reason))


def _stored(each: Input, options: Options, store: Path | None) -> Outcome:
    digest = file_hash(each.path)
    key = hashlib.sha256(f"{digest} {options.key()}".encode()).hexdigest()
    kept = store and store / f"{key}.json"
    note = ""
    if kept and os.path.lexists(kept):
        try:
            return Outcome(_named(_read(kept, digest, options), each), reused=True)
        except (OSError, ValueError) as error:
            told = f"its stored result is damaged ({reason(error)})"
            note = f"{each.name} was measured again: {told}"
    result = measure_video(each.path, options)
    if kept:
        try:
            write_atomically(kept, _with_checksum(dataclasses.asdict(result)))
        except OSError as error:
            note = f"the result of {each.name} could not be stored: {reason(error)}"
    return Outcome(_named(result, each), note=note)


def _named(result: VideoResult, each: Input) -> VideoResult:
    """A result under the name that the video has now."""
    return dataclasses.replace(result, name=each.name, path=each.shown)


def _with_checksum(record: dict[str, Any]) -> bytes:
    record = record | {"name": "", "path": ""}  # which the next evaluation knows better
    return json.dumps(record | {_CHECKSUM: _checksum(record)}).encode()


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(kept: Path, digest: str, options: Options) -> VideoResult:
    """A stored result that is whole, of this video and of the shape that results have.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged or was changed.
    """
    record = read_object(kept, _LARGEST)
    if record.pop(_CHECKSUM, None) != _checksum(record):
        raise ValueError("its checksum is wrong")
    for name, hint in get_type_hints(VideoResult).items():
        if name not in record or not fits(record[name], hint):
            raise ValueError(f"`{name}` is not as it should be")
    if set(record) != {field.name for field in dataclasses.fields(VideoResult)}:
        raise ValueError("it has unknown entries")
    words = {record["verdict"], *record["components"].values()}
    if not words <= set(get_args(Word)):
        raise ValueError("it has an unknown verdict")
    if record["sha256"] != digest or not set(record["metrics"]) <= set(METRICS):
        raise ValueError("it is of another video or has unknown metrics")
    video = record["video"]
    if not {*_SIZE, *_WORDS} <= set(video) or not (
        all(fits(video[name], float) for name in _SIZE)
        and all(fits(video[name], str) for name in _WORDS)
        and all(fits(value, float | str) for value in video.values())
    ):
        raise ValueError("it does not describe a video")
    if not all(
        _has(edit, {"kind": str, "begin": float, "end": float})
        and edit["kind"] in get_args(EditKind)
        for edit in record["edits"]
    ):
        raise ValueError("it has unknown edits")
    window = {"change": float, "begin": float, "end": float, "tolerance": float}
    if not all(_has(worst, window) for worst in record["worst"].values()):
        raise ValueError("its worst windows are not as they should be")
    if not all(map(_is_jpeg, record["thumbnails"])):
        raise ValueError("its thumbnails are no pictures")
    return VideoResult(**record)


_SIZE, _WORDS = {"width", "height", "fps", "frames", "seconds"}, {"codec", "pixel_format"}


def _has(value: Any, entries: dict[str, Any]) -> bool:
    """Whether a value has just these entries, of these types."""
    is_alike = isinstance(value, dict) and set(value) == set(entries)
    return is_alike and all(fits(value[name], hint) for name, hint in entries.items())


def _is_jpeg(text: str) -> bool:
    try:
        return base64.b64decode(text, validate=True).startswith(b"\xff\xd8\xff")
    except (binascii.Error, ValueError):
        return False
