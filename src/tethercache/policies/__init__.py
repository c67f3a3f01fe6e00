"""Cache policies by name. A new policy is one file here and one line in `POLICIES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tethercache.arguments import instance
from tethercache.registry import Entry, Registry

if TYPE_CHECKING:
    from tethercache.cache import Policy

POLICIES: Registry[Policy] = Registry(
    "policy",
    {
        "tethercache": Entry(
            "tethercache.policies.tethercache:TetherCache",
            "sink + recalled memory + recent frames; recall by GRAB, alignment by TAME",
            source="arXiv 2606.13035",
        ),
        "fifo": Entry(
            "tethercache.policies.window:Window",
            "the newest frames only",
            source="Self-Forcing, arXiv 2506.08009",
        ),
        "sink": Entry(
            "tethercache.policies.window:Window",
            "the first frames and the newest ones",
            preset={"sink": 3},
            source="StreamingLLM, arXiv 2309.17453",
        ),
        "ema-sink": Entry(
            "tethercache.policies.ema_sink:EmaSink",
            "a window whose sink absorbs what leaves it",
            source="Reward Forcing",
            waives={"sink": "its sink is a moving average"},
        ),
        "commit-read": Entry(
            "tethercache.policies.commit_read:CommitRead",
            "the same memory, but the context pass reads only the newest frames of it",
            source="Commit Forcing",
            wraps=True,
        ),
    },
)


def as_policy(policy: Policy | str) -> Policy:
    """The policy itself, or the one that a spec such as `sink:window=12` describes.

    Raises:
        ValueError: if it is neither.
    """
    from tethercache.cache import Policy

    if isinstance(policy, str):
        return POLICIES.parse(policy)
    made: Policy = instance(
        "policy", policy, Policy, f"a policy or a spec of {', '.join(POLICIES)}"
    )
    return made


__all__ = ["POLICIES", "as_policy"]
