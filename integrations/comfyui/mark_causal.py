"""Write into a checkpoint that its model is causal, so that ComfyUI loads it as one.

    python mark_causal.py wan.safetensors causal-wan.safetensors

ComfyUI tells a causal Wan (Self-Forcing, Causal-Forcing, ...) from another one by the metadata of
its safetensors file alone; the weights have the same names and shapes. The tensors must have the
names of the original Wan code, as in ComfyUI's own files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file


def mark(source: Path, target: Path, **sizes: Any) -> None:
    """Copy a checkpoint, and add to its metadata.

    Args:
        source: a safetensors file.
        target: where the copy goes.
        **sizes: what ComfyUI would guess wrongly of the model, such as `num_heads`, which it takes
            for a 128th of the width.

    Raises:
        ValueError: if `source` holds no Wan model under the names of the original code.
    """
    with safe_open(source, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        names: list[str] = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    if not any(name.endswith("blocks.0.self_attn.q.weight") for name in tensors):
        raise ValueError(f"{source} holds no Wan model under the names of the original code")
    config = json.loads(metadata.get("config", "{}"))
    config["transformer"] = {**config.get("transformer", {}), "causal_ar": True, **sizes}
    save_file(tensors, target, {**metadata, "config": json.dumps(config)})


if __name__ == "__main__":
    mark(*map(Path, sys.argv[1:3]))
