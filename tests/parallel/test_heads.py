from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.parallel.two import begin, made
from tethercache.backbones.parallel import check_shares

POLICIES = (
    "fifo",
    "tethercache",
    "tethercache + commit-read",
    "memflow",
    "deep-forcing",
    "tethercache + dysink-gate",
    "tethercache + async-admission",
)


def torchrun(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Two processes on the loopback, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.slow
def test_two_processes_remember_and_make_what_one_does(tmp_path: Path) -> None:
    ran = torchrun("-m", "tests.parallel.two", tmp_path, *POLICIES)
    assert not ran.returncode, ran.stderr[-3000:]
    for number, policy in enumerate(POLICIES):
        alone = made(begin(policy, shared=False))
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True)
            for one, two in zip(alone["memory"], found["memory"], strict=True):
                assert torch.equal(one, two), policy
            for one, two in zip(alone["latents"], found["latents"], strict=True):
                assert (one - two).abs().max() < 1e-4, policy


@pytest.mark.slow
def test_a_state_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    ran = torchrun("-m", "tests.parallel.two", tmp_path, "tethercache")
    assert not ran.returncode, ran.stderr[-3000:]
    found = torch.load(tmp_path / "0-0.pt", weights_only=True)
    rollout = begin("tethercache", shared=False)
    rollout.load_state_dict(found["state"])
    assert (next(rollout) - found["latents"][8]).abs().max() < 1e-4


def test_the_heads_must_be_shared_evenly() -> None:
    check_shares(12, 4)
    with pytest.raises(ValueError, match="5 processes cannot share 12 attention heads evenly"):
        check_shares(12, 5)
