"""Signals: one line and a status, at any moment, for every command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tethercache.cli import stop
from tethercache.video import VideoWriter

# a command that waits for its signal where the test wants it
WAITING = """
import sys, time
from tethercache.cli import app, main

def wait(arguments):
    {body}
    return 0

def ready():
    print("ready", flush=True)
    time.sleep(60)

app.run = wait
main()
"""
CLEANING = "try: ready()\n    finally: print('cleaned', flush=True); time.sleep({seconds})"


def interrupted(folder: Path, body: str, *signals: signal.Signals) -> tuple[int, str, str]:
    """Run a command with `body`, send it signals; returns status, output and errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(body=body)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signals[0])
    for number in signals[1:]:
        time.sleep(0.3)
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "error: interrupted\n"),
        (signal.SIGTERM, 143, "error: stopped by SIGTERM\n"),
        (signal.SIGHUP, 129, "error: stopped by SIGHUP\n"),
    ],
)
def test_a_signal_is_one_line_and_its_status_after_cleaning_up(
    tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    body = CLEANING.format(seconds=0)
    assert interrupted(tmp_path, body, number) == (status, "cleaned\n", said)


def test_a_second_signal_ends_at_once_with_the_status_of_the_first(tmp_path: Path) -> None:
    signals = (signal.SIGTERM, signal.SIGINT)
    started = time.monotonic()
    done = interrupted(tmp_path, CLEANING.format(seconds=60), *signals)
    assert done == (143, "cleaned\n", "error: stopped by SIGTERM\n")
    assert time.monotonic() - started < 30


def test_a_signal_that_is_swallowed_ends_the_command_all_the_same(tmp_path: Path) -> None:
    body = "try: ready()\n    except BaseException: raise ValueError('garbled')"
    assert interrupted(tmp_path, body, signal.SIGINT) == (130, "", "error: interrupted\n")


def test_a_signal_during_an_import_ends_at_once(tmp_path: Path) -> None:
    code = "import __main__\ntry: __main__.ready()\nexcept BaseException: __main__.ready()\n"
    (tmp_path / "slow.py").write_text(code)
    body = "sys.path.insert(0, '.'); import slow"
    assert interrupted(tmp_path, body, signal.SIGINT) == (130, "", "error: interrupted\n")


def test_a_thread_that_still_works_does_not_crash_the_end(tmp_path: Path) -> None:
    body = (
        "import threading; thread = threading.Thread(target=time.sleep, args=(60,)); "
        "thread.start(); ready()"
    )
    started = time.monotonic()
    assert interrupted(tmp_path, body, signal.SIGINT) == (130, "", "error: interrupted\n")
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_of_eval_without_a_word_of_theirs(tmp_path: Path) -> None:
    """A terminal sends it to all of them."""
    frames = np.random.default_rng(0).integers(0, 256, (160, 256, 256, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, fps=16, width=256, height=256) as writer:
            writer.write(frames)
    process = subprocess.Popen(
        [sys.executable, "-m", "tethercache", "eval", ".", "--jobs", "2", "--every", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    family = psutil.Process(process.pid)
    while process.poll() is None and len(family.children()) < 3:  # one keeps the semaphores
        time.sleep(0.05)
    children = family.children()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "", "error: interrupted")
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As under `nohup`."""
    code = WAITING.format(body="print(flush=True); time.sleep(1)")
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(1, signal.SIG_IGN)\n" + code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


def test_handlers_are_restored_where_the_process_goes_on() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop.stopping(for_good=False):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit, match="143"), stop.stopping(for_good=False):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    clocks = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(clock.finished.is_set() for clock in clocks)
