"""What each of two processes computes of one video; see `test_heads.py`.

torchrun --nproc-per-node 2 -m tests.parallel.two FOLDER POLICY...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.toys import toy_pipeline
from tethercache.backbones.parallel import share_heads
from tethercache.rollout import Rollout

CHUNKS = 10


def begin(policy: str, *, shared: bool) -> Rollout:
    """A rollout of ten chunks at toy size, its heads shared by the processes or not."""
    pipe = toy_pipeline()
    if shared:
        share_heads(pipe.transformer)
    length = {"num_latent_frames": 3 * CHUNKS}
    return pipe.rollout("a red ball rolling over grass", policy=policy, seed=3, **length)


def remembered(rollout: Rollout) -> torch.Tensor:
    """Which frames every layer reads, `[layers, B, readable]`."""
    banks = rollout.session.caches()
    return torch.stack([bank.frame_index[:, : bank.readable] for bank in banks]).clone()


def made(rollout: Rollout) -> dict[str, list[torch.Tensor]]:
    """Latents and memory of each chunk that is left."""
    both = [(next(rollout), remembered(rollout)) for _ in range(CHUNKS - rollout.chunks_made)]
    return {"latents": [one for one, _ in both], "memory": [other for _, other in both]}


def main() -> None:
    """Make each video, in one go and from a state half-way."""
    dist.init_process_group("gloo")
    folder, *policies = sys.argv[1:]
    for number, policy in enumerate(policies):
        rollout = begin(policy, shared=True)
        head = [(next(rollout), remembered(rollout)) for _ in range(8)]
        state = rollout.state_dict()
        tail = made(rollout)
        other = begin(policy, shared=True)
        other.load_state_dict(state)
        again = made(other)["latents"]
        assert all(map(torch.equal, again, tail["latents"]))
        found = {
            "latents": [one for one, _ in head] + tail["latents"],
            "memory": [one for _, one in head] + tail["memory"],
            "state": state,
        }
        torch.save(found, Path(folder) / f"{number}-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
