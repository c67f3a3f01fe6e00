"""One video on several devices: which of diffusers' parallelisms a cache goes with.

Context parallelism as Ulysses does it: diffusers splits the tokens of a chunk over N processes at
the first block and puts them together behind the last; in between, `cache/heads.py` exchanges them
for heads before the cache. So each process keeps all frames of its own heads.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from diffusers import ContextParallelConfig, WanTransformer3DModel
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ParallelConfig
from torch.distributed.device_mesh import init_device_mesh


def share_heads(transformer: WanTransformer3DModel) -> None:
    """Share the heads among all processes of `torch.distributed`, which must be initialized.

    Each has the whole model, on a device of its own, and makes the same calls. It is what
    `transformer.enable_parallelism` does, which needs an accelerator: this works on CPUs too.

    Raises:
        ValueError: if the processes cannot share the heads evenly.
    """
    shares, device = dist.get_world_size(), transformer.device
    check_shares(transformer.config.num_attention_heads, shares)
    config = ContextParallelConfig(ulysses_degree=shares)
    mesh = init_device_mesh(device.type, config.mesh_shape, mesh_dim_names=config.mesh_dim_names)
    whole = ParallelConfig(context_parallel_config=config)
    whole.setup(dist.get_rank(), shares, device, mesh=mesh)
    transformer._parallel_config = whole
    apply_context_parallel(transformer, config, transformer._cp_plan)


def parallel_config(transformer: Any) -> Any:
    """The `ContextParallelConfig` of a transformer; None: its heads are not shared."""
    config = getattr(transformer, "_parallel_config", None)
    return config and config.context_parallel_config


def check_parallel(transformer: Any) -> None:
    """Refuse the kinds of parallelism under which no process has all tokens of a head.

    Raises:
        ValueError: it is ring attention or tensor parallelism, or the heads cannot be shared.
    """
    if getattr(transformer, "_parallel_config", None) is None:
        return
    config = parallel_config(transformer)
    if config is None or config.ring_degree > 1 or config.ulysses_anything:
        raise ValueError(
            "of diffusers' parallelism a cache goes with `ContextParallelConfig(ulysses_degree=N)` "
            "alone: each process then keeps all tokens of its own heads"
        )
    check_shares(transformer.config.num_attention_heads, config.ulysses_degree)


def check_shares(heads: int, shares: int) -> None:
    """Refuse a number of processes that does not divide the attention heads."""
    if heads % shares:
        raise ValueError(f"{shares} processes cannot share {heads} attention heads evenly")
