"""Decoding beside denoising: the same frames, errors that arrive, threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator

import pytest
import torch
from torch import Tensor

from tethercache.video import overlapped


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("decode")}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


class Source:
    """Makes 0, 1, 2, ...; says how many it has made and whether it was closed."""

    def __init__(self, items: int, fail_at: int | None = None) -> None:
        self.items, self.fail_at, self.made, self.closed = items, fail_at, 0, False

    def __call__(self) -> Generator[Tensor, None, None]:
        try:
            for i in range(self.items):
                if i == self.fail_at:
                    raise ZeroDivisionError("denoising failed")
                self.made = i + 1
                yield torch.tensor([i])
        finally:
            self.closed = True


def test_results_come_in_order_from_one_other_thread_without_gradients() -> None:
    seen = set()

    def work(item: Tensor) -> Tensor:
        seen.add((threading.current_thread().name, torch.is_grad_enabled()))
        time.sleep(0.01 * float(2 - item % 3))
        return item * 10

    source = Source(7)
    assert [int(x) for x in overlapped(source(), work)] == [0, 10, 20, 30, 40, 50, 60]
    assert source.closed
    ((name, gradients),) = seen
    assert name.startswith("decode")
    assert not gradients


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    next_made = threading.Event()

    def work(item: Tensor) -> Tensor:
        assert next_made.wait(timeout=20)
        return item

    def source() -> Generator[Tensor, None, None]:
        yield torch.tensor([0])
        next_made.set()
        yield torch.tensor([1])

    assert len(list(overlapped(source(), work))) == 2


def test_no_more_than_one_item_waits_for_a_slow_taker() -> None:
    source = Source(10)
    stream = overlapped(source(), lambda item: item)
    assert int(next(stream)) == 0
    assert source.made == 2
    time.sleep(0.05)
    assert source.made == 2
    assert int(next(stream)) == 1
    assert source.made == 3
    stream.close()


def test_an_error_of_the_work_arrives_and_ends_the_making() -> None:
    source = Source(10)

    def work(item: Tensor) -> Tensor:
        if item == 2:
            raise OSError("decoding failed")
        return item

    stream = overlapped(source(), work)
    assert [int(next(stream)), int(next(stream))] == [0, 1]
    with pytest.raises(OSError, match="decoding failed"):
        next(stream)
    assert source.closed
    assert source.made == 4


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_of_the_making_arrives_and_ends_the_thread(error: type[BaseException]) -> None:
    def source() -> Generator[Tensor, None, None]:
        yield torch.tensor([0])
        raise error

    with pytest.raises(error):
        list(overlapped(source(), lambda item: item))


def test_closing_early_waits_for_the_work_in_hand_and_ends_the_thread() -> None:
    source, done = Source(10), []

    def work(item: Tensor) -> Tensor:
        time.sleep(0.05)
        done.append(int(item))
        return item

    stream = overlapped(source(), work)
    next(stream)
    assert threads()
    stream.close()
    assert not threads()
    assert source.closed
    assert done == [0, 1]


def test_nothing_to_do_is_no_error() -> None:
    assert list(overlapped(Source(0)(), lambda item: item)) == []
