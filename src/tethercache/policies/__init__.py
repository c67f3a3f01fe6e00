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
        "infinity-rope": Entry(
            "tethercache.policies.infinity_rope:InfinityRope",
            "a short window that is flushed where the prompt changes",
            source="Infinity-RoPE",
        ),
        "deep-forcing": Entry(
            "tethercache.policies.deep_forcing:DeepForcing",
            "many first frames, the newest ones, and the tokens between that these ask for",
            source="Deep Forcing",
        ),
        "memrope": Entry(
            "tethercache.policies.memrope:MemRope",
            "the first and the newest frames, and two running means of what is between",
            source="MemRoPE",
        ),
        "memflow": Entry(
            "tethercache.policies.memflow:MemFlow",
            "the first and the newest frames, and those between that the prompt says most about",
            source="MemFlow",
        ),
        "relax": Entry(
            "tethercache.policies.relax:Relax",
            "few frames, one of them out of a large store: like the first, unlike the newest",
            source="Relax Forcing",
        ),
        "rolling-sink": Entry(
            "tethercache.policies.rolling_sink:RollingSink",
            "a window whose history is the opening of the video, played to and fro",
            source="Rolling Sink",
        ),
        "anchor": Entry(
            "tethercache.policies.anchor:Anchor",
            "the first and the newest frames, and low frequencies of what early ones show",
            source="FreqForcing, arXiv 2607.27110",
        ),
        "random": Entry(
            "tethercache.policies.random_memory:RandomMemory",
            "sink + memory by chance + recent frames; the control for `tethercache`",
        ),
        "commit-read": Entry(
            "tethercache.policies.commit_read:CommitRead",
            "the same memory, but the context pass reads only the newest frames of it",
            source="Commit Forcing",
            wraps=True,
        ),
        "recency": Entry(
            "tethercache.policies.recency:Recency",
            "the same memory, but denoising passes lean towards the near past",
            source="Recency Forcing",
            waives={"full attention under budget": "old frames weigh less from the start"},
            wraps=True,
        ),
        "far-read": Entry(
            "tethercache.policies.far_read:FarRead",
            "the same memory, but far frames are seen in a band of steps and layers only",
            wraps=True,
        ),
        "late-far": Entry(
            "tethercache.policies.far_read:FarRead",
            "the same memory, but far frames are seen by late layers in the last step only",
            preset={"first_step": -1, "first_layer": 0.66},
            source="Commit Forcing",
            waives={"full attention under budget": "a full cache is masked, too"},
            wraps=True,
        ),
        "read-mask": Entry(
            "tethercache.policies.read_mask:ReadMask",
            "the same memory, but frames of one role are not seen in a band of steps and layers",
            wraps=True,
        ),
        "shifted": Entry(
            "tethercache.policies.shifted:Shifted",
            "the same memory, but frames stand at their distances in time, long gaps shortened",
            wraps=True,
        ),
        "dysink-gate": Entry(
            "tethercache.policies.dysink_gate:DysinkGate",
            "the same memory, but a layer sees no far frames where its heads prefer one of them",
            source="DySink, arXiv 2605.21028",
            waives={"full attention under budget": "a full cache is gated, too"},
            wraps=True,
        ),
        "async-admission": Entry(
            "tethercache.policies.async_admission:AsyncAdmission",
            "a memory that changes a little at a time, and not in all layers at once",
            wraps=True,
        ),
    },
    groups={"tethercache.policies": False, "tethercache.wrappers": True},
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
