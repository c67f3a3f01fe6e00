"""What was measured, held against the goals, and as JSON."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tethercache.bench.cases import Case
from tethercache.bench.statistics import Ratio
from tethercache.software import versions

FIFO, SINK, CONTROL, BARE = "fifo", "sink", "control", "bare"
"""Names of the contestants that are always there: two windows, one of them twice, and no cache."""

CONTROL_MARGIN = 0.02
"""How far from one the ratio of two equal windows may be."""

WINDOW_LIMIT = 1.05
"""The most that a window's chunk may cost, in chunks of the bare transformer."""

ADMISSION_LIMIT = 200e6
"""The most bytes that an admission may take for a while, at real dimensions."""


@dataclass(frozen=True)
class Row:
    """One contestant in one case; times are medians, in milliseconds a chunk.

    Attributes:
        case: name of the case.
        policy: spec of the policy, or one of the names above.
        wall_ms: time on the wall, decode not included.
        cpu_ms: processor time of all threads, decode not included.
        spread: distance of the quartiles over the median, of the times that ratios are made of.
        laps_ms: these times, round by round: processor time on a CPU, else wall time.
        to_fifo: ratio to the window without a sink.
        to_sink: ratio to the window with a sink.
        to_bare: ratio to the bare transformer; None where that did not take part.
        split_ms: wall time by phase, `transformer`, `cache`, `waiting` and `decode`; all but the
            last add up to `wall_ms`.
        cache_ms: the parts of `cache`.
        decode_ms: wall time of the decode; None where nothing is decoded.
        pixel_frames: frames of the video that a chunk becomes.
        peak_bytes: what the contestant alone would need at most.
        state_bytes: what of that it keeps between chunks, weights aside.
        admission_bytes: see `MemoryUse`.
        flops: operations that a chunk needs.
        flops_per_second: reached.
        share_of_peak: of what a large matrix product reaches.
        dtype: number format.
    """

    case: str
    policy: str
    wall_ms: float
    cpu_ms: float
    spread: float
    laps_ms: list[float]
    to_fifo: Ratio | None
    to_sink: Ratio | None
    to_bare: Ratio | None
    split_ms: dict[str, float]
    cache_ms: dict[str, float]
    decode_ms: float | None
    pixel_frames: int
    peak_bytes: int
    state_bytes: int
    admission_bytes: int | None
    flops: int
    flops_per_second: float
    share_of_peak: float
    dtype: str

    @property
    def frames_per_second(self) -> float:
        """Frames of video for each second, without decode."""
        return 1e3 * self.pixel_frames / self.wall_ms

    @property
    def frames_per_second_decoded(self) -> float | None:
        """The same with the decode after each chunk."""
        if self.decode_ms is None:
            return None
        return 1e3 * self.pixel_frames / (self.wall_ms + self.decode_ms)

    def as_json(self) -> dict[str, Any]:
        """For the JSON line; MB are 10^6 bytes."""

        def ratio(name: str, of: Ratio | None) -> dict[str, Any]:
            interval = None if of is None else [round(of.low, 4), round(of.high, 4)]
            return {
                f"ratio_to_{name}": None if of is None else round(of.median, 4),
                f"interval_to_{name}": interval,
            }

        return {
            "case": self.case,
            "policy": self.policy,
            "ms_per_chunk": _short(self.wall_ms),
            "wall_ms": _short(self.wall_ms),
            "cpu_ms": _short(self.cpu_ms),
            "decode_ms": _short(self.decode_ms),
            "spread": _short(self.spread),
            "chunks": len(self.laps_ms),
            **ratio("fifo", self.to_fifo),
            **ratio("sink", self.to_sink),
            **ratio("bare", self.to_bare),
            "split_ms": {name: _short(value) for name, value in self.split_ms.items()},
            "cache_ms": {name: _short(value) for name, value in self.cache_ms.items()},
            "frames_per_second": _short(self.frames_per_second),
            "frames_per_second_decoded": _short(self.frames_per_second_decoded),
            "peak_memory_mb": _short(self.peak_bytes / 1e6),
            "state_mb": _short(self.state_bytes / 1e6),
            "admission_mb": _short(
                None if self.admission_bytes is None else self.admission_bytes / 1e6
            ),
            "tflop_per_chunk": _short(self.flops / 1e12),
            "tflop_per_second": _short(self.flops_per_second / 1e12),
            "share_of_matrix_peak": _short(self.share_of_peak),
            "dtype": self.dtype,
            "laps_ms": self.laps_ms,
        }


@dataclass(frozen=True)
class Verdict:
    """A goal, and whether it was reached.

    Attributes:
        case: name of the case.
        claim: what was to be shown, with the numbers.
        met: whether it is so.
        control: whether this is the check that the run can be trusted at all.
    """

    case: str
    claim: str
    met: bool
    control: bool = False

    def __str__(self) -> str:
        if self.control:
            return f"{self.claim}: {'quiet enough' if self.met else 'too noisy, run this again'}"
        return f"{self.claim}: {'met' if self.met else 'missed'}"


def verdicts(rows: Sequence[Row], cases: Mapping[str, Case]) -> list[Verdict]:
    """Hold the rows against the goals of their cases."""
    found = []
    for name, case in cases.items():
        here = {row.policy: row for row in rows if row.case == name}
        control = here[CONTROL].to_sink
        assert control is not None
        found.append(
            Verdict(
                name,
                f"{name}: a second, equal window takes {control} x the first, "
                f"within {CONTROL_MARGIN:.0%}",
                round(abs(control.median - 1), 6) <= CONTROL_MARGIN,
                control=True,
            )
        )
        if bare := here[SINK].to_bare:
            claim = f"{name}: the window takes {bare} x the bare transformer, at most"
            found.append(Verdict(name, f"{claim} {WINDOW_LIMIT:.2f}", bare.median <= WINDOW_LIMIT))
        for policy, row in here.items():
            if policy in (FIFO, SINK, CONTROL, BARE):
                continue
            assert row.to_sink is not None
            claim = f"{name}: {policy} takes {row.to_sink} x the window, at most {case.limit:.2f}"
            found.append(Verdict(name, claim, row.to_sink.median <= case.limit))
            if case.full_size and row.admission_bytes is not None:
                claim = f"{name}: an admission of {policy} takes {row.admission_bytes / 1e6:.0f} MB"
                met = row.admission_bytes <= ADMISSION_LIMIT
                found.append(
                    Verdict(name, f"{claim} on top, at most {ADMISSION_LIMIT / 1e6:.0f}", met)
                )
    return found


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        rows: case by case.
        verdicts: case by case.
        device: where it was measured.
        chunks: timed chunks of each contestant.
        peaks: operations a second of a large matrix product, by number format and threads.
        threads: of PyTorch, in each case.
        attention: attention backend of each case.
        compiled: whether the blocks were compiled.
    """

    rows: list[Row]
    verdicts: list[Verdict]
    device: torch.device
    chunks: int
    peaks: dict[str, float]
    threads: dict[str, int]
    attention: dict[str, str]
    compiled: bool

    @property
    def quiet(self) -> bool:
        """Whether all controls lay within their margin."""
        return all(verdict.met for verdict in self.verdicts if verdict.control)

    def as_json(self) -> dict[str, Any]:
        """The JSON line."""
        return {
            "benchmark": "speed",
            "date": datetime.date.today().isoformat(),
            "cases": [row.as_json() for row in self.rows],
            "verdicts": [{"claim": verdict.claim, "met": verdict.met} for verdict in self.verdicts],
            "quiet": self.quiet,
            "chunks": self.chunks,
            "device": self.device.type,
            "dtype": sorted({row.dtype for row in self.rows}),
            "threads": self.threads,
            "attention": self.attention,
            "compiled": self.compiled,
            "matrix_tflop_per_second": {k: _short(peak / 1e12) for k, peak in self.peaks.items()},
            "machine": machine(self.device),
            "versions": versions("torch", "diffusers"),
        }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers belong to."""
    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def processor() -> str:
    """The processor as it calls itself, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _short(value: float | None) -> float | None:
    """Five digits, which is more than is known."""
    return None if value is None else float(f"{value:.5g}")
