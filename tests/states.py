"""States on their way through files."""

from __future__ import annotations

import json
from typing import Any

from safetensors.torch import load, save

from tethercache.state import State, join, split


def written_and_read(state: State) -> Any:
    """What is left of a state in a file of tensors and one of JSON."""
    tensors, rest = split(state)
    return join(load(save(tensors)), json.loads(json.dumps(rest)))
