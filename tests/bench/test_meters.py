from __future__ import annotations

import time

import torch

from tests.bench.toy import DEVICE
from tethercache.bench.meters import Clock, LiveBytes, Timeline, matrix_peak


def test_a_clock_tells_work_from_waiting() -> None:
    clock = Clock(DEVICE)
    start = clock.stamp()
    time.sleep(0.02)
    spent = clock.since(start)
    assert spent.wall >= 0.02 > spent.cpu


class Hand(Clock):
    """A clock that is set by hand."""

    now = 0.0

    def mark(self) -> float:
        return self.now


def test_time_belongs_to_the_innermost_phase() -> None:
    clock = Hand(DEVICE)
    timeline = Timeline(clock)
    timeline.start()
    with timeline.phase("outer"):
        clock.now += 1
        with timeline.phase("inner"):
            clock.now += 5
        clock.now += 2
    clock.now += 0.5
    assert timeline.totals() == {"outer": 3, "inner": 5, Timeline.REST: 0.5}


def test_a_phase_ends_when_the_work_fails() -> None:
    timeline = Timeline(Clock(DEVICE))
    timeline.start()
    try:
        with timeline.phase("failing"):
            raise KeyError
    except KeyError:
        time.sleep(0.01)
    assert timeline.totals()[Timeline.REST] >= 0.01


def test_living_bytes_are_those_made_inside_and_still_there() -> None:
    known = torch.zeros(1000)
    with LiveBytes([known]) as live:
        view = known.view(10, 100)
        kept = view + 1
        assert live.level() == kept.nbytes
        (kept * 2).sum()
        assert live.level() == kept.nbytes
        assert 2 * kept.nbytes <= live.highest() < 2.1 * kept.nbytes
        live.watch()
        assert live.highest() == kept.nbytes
        del kept
        assert live.level() == 0


def test_the_peak_of_matrix_products_is_a_speed() -> None:
    assert matrix_peak(DEVICE, torch.float32, size=64, repeats=2) > 1e6
