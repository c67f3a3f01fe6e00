"""Runs the inputs of a kind, each in a process that may die of it."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.guard import MOST_MEMORY, Guard, Peak, limit_memory
from fuzz.kind import Kind
from tethercache.text import printable

PATIENCE = 10.0
"""Seconds that an input may compute, or wait without computing."""

_LONGEST = 12 * PATIENCE  # by the clock: on a busy machine computing takes its time


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        index: of the input.
        what: `accepted`, or the class of the error that refused it.
        seconds: of computing.
        memory: bytes that were added at most.
        finding: why that is wrong; empty if it is not.
        trace: where.
    """

    index: int
    what: str
    seconds: float = 0.0
    memory: int = 0
    finding: str = ""
    trace: str = ""


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_index: int = 0
    memory: int = 0
    memory_index: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.done = max(0, outcome.index + 1)
        self.outcomes[outcome.what] += 1
        if outcome.seconds > self.slowest:
            self.slowest, self.slowest_index = outcome.seconds, outcome.index
        if outcome.memory > self.memory:
            self.memory, self.memory_index = outcome.memory, outcome.index
        if outcome.finding:
            self.findings.append(asdict(outcome))


def content_of(kind: Kind, seed: int, index: int) -> bytes:
    """The input of a number."""
    return kind.make(Random(f"{seed} {kind.name} {index}"))


@contextmanager
def prepared(kind: Kind) -> Iterator[Kind]:
    """A kind in a folder of its own, which is the current one in the block."""
    before = os.getcwd()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)
        try:
            kind.prepare()
            yield kind
        finally:
            os.chdir(before)


def run(kind: Kind, inputs: Iterable[tuple[int, bytes]]) -> Iterator[Outcome]:
    """Give inputs to a prepared kind, in a process that is replaced when it ends or hangs."""
    waiting = iter(inputs)
    upcoming = next(waiting, None)
    while upcoming is not None:
        rest = _chained(upcoming, waiting)
        upcoming = None
        worker = _Worker(kind)
        try:
            for index, content in rest:
                outcome = worker.give(index, content)
                yield outcome
                if not worker.lives:
                    upcoming = next(waiting, None)
                    break
        finally:
            worker.end()


def _chained(
    first: tuple[int, bytes], rest: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    yield first
    yield from rest


class _Worker:
    """A forked process that takes inputs from a pipe and answers each with a line."""

    def __init__(self, kind: Kind) -> None:
        work, self._in = os.pipe()
        self._out, answers = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._in)
            os.close(self._out)
            status = 1
            try:
                _serve(kind, work, answers)
                status = 0
            finally:
                os._exit(status)
        os.close(work)
        os.close(answers)
        self.lives = True

    def give(self, index: int, content: bytes) -> Outcome:
        with suppress(BrokenPipeError):
            _send(self._in, content)
        started, computed, waited = time.monotonic(), self._computed(), time.monotonic()
        first = computed
        while True:
            if select.select([self._out], [], [], 0.5)[0]:
                answer = _receive(self._out)
                if answer is not None:
                    return Outcome(index, **json.loads(answer))
                return self._died(index)
            now, used = time.monotonic(), self._computed()
            if used > computed:
                computed, waited = used, now
            busy, idle = used - first > PATIENCE, now - waited > PATIENCE
            if busy or idle or now - started > _LONGEST:
                os.kill(self.pid, signal.SIGKILL)
                self._wait()
                reason = "waits for nothing" if idle else "computes"
                return Outcome(index, "hang", used - first, 0, f"{reason} for {PATIENCE:g} s")

    def _died(self, index: int) -> Outcome:
        status = self._wait()
        by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "itself"
        return Outcome(index, "crash", finding=f"the process was ended by {by}")

    def _wait(self) -> int:
        self.lives = False
        return os.waitpid(self.pid, 0)[1]

    def _computed(self) -> float:
        """Seconds that the process and its children have computed."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        # user and system time of the process, and of its children that have ended
        seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return seconds + sum(map(_process_seconds, _children(self.pid)))

    def end(self) -> None:
        for descriptor in (self._in, self._out):
            os.close(descriptor)
        if self.lives:
            self._wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _process_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _serve(kind: Kind, work: int, answers: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    limit_memory()
    guard = Guard()
    while (given := _receive(work)) is not None:
        _send(answers, json.dumps(_taken(kind, guard, given)).encode())


def _taken(kind: Kind, guard: Guard, content: bytes) -> dict[str, Any]:
    """What becomes of an input: an `Outcome` without its index."""
    peak, started = Peak(), _computed()
    what, finding, trace = "", "", ""
    with guard.watching():
        try:
            what = kind.take(content) or "accepted"
        except kind.refusals as error:
            what = type(error).__name__
            finding = _wrong_words(error)
            trace = _trace(error) * bool(finding)
        except BaseException as error:
            what = type(error).__name__
            finding = f"{what}: {error}"[:300]
            trace = _trace(error)
    seconds, memory = _computed() - started, peak.read()
    if guard.seen:
        finding = f"ran or wrote what it must not: {guard.seen[0]}"
    elif memory > MOST_MEMORY and not finding:
        finding = f"took {memory / 1e6:.0f} MB"
    return {
        "what": what,
        "seconds": seconds,
        "memory": memory,
        "finding": printable(finding),
        "trace": trace,
    }


def _computed() -> float:
    """Seconds that this process and its children have computed."""
    return sum(os.times()[:4])


def _wrong_words(error: BaseException) -> str:
    """What is wrong with a refusal: with its message, or with who says it."""
    said = str(error)
    if not said.strip():
        return f"{type(error).__name__} says nothing"
    if "weights_only" in said or "Traceback" in said:
        return f"passes on what a library says: {said[:200]}"
    if isinstance(error, ValueError) and not _is_ours(error):
        return f"a library's {type(error).__name__}: {said[:200]}"
    return ""


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3000:]


def _is_ours(error: ValueError) -> bool:
    """Whether this project raised an error, and not a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("tethercache.", "fuzz."))


def _send(descriptor: int, content: bytes) -> None:
    left = memoryview(len(content).to_bytes(8, "little") + content)
    while left:
        left = left[os.write(descriptor, left) :]


def _receive(descriptor: int) -> bytes | None:
    size = _exactly(descriptor, 8)
    return None if size is None else _exactly(descriptor, int.from_bytes(size, "little"))


def _exactly(descriptor: int, size: int) -> bytes | None:
    made = bytearray()
    while len(made) < size:
        got = os.read(descriptor, size - len(made))
        if not got:
            return None
        made += got
    return bytes(made)
