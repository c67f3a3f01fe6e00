"""Adapters beside the weights, under the names that diffusers has for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor

from tethercache.arguments import instance
from tethercache.models import HubFile, fetch_file
from tethercache.models.checkpoints.lora import add_lora


class Adapters(WanLoraLoaderMixin):
    """The part of `CausalVideoPipeline` that has to do with LoRA.

    Adapters stay beside the weights. `set_adapters`, `get_active_adapters`, `delete_adapters`,
    `disable_lora`, `fuse_lora` and the others are those of diffusers. Scales are set between
    videos: what a video in the making knows of its prompt is not computed again.
    (`from_pretrained(..., loras=...)` merges, which costs nothing per pass.)
    """

    transformer: Any

    def load_lora_weights(
        self,
        source: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
    ) -> None:
        """Load an adapter and use it, alone and at scale 1, until `set_adapters` says otherwise.

        Args:
            source: a file or folder, of any kind that `--lora` takes, a hub id (`owner/name`, with
                `weight_name`), or the tensors themselves.
            adapter_name: its name; default: `default_0`, `default_1`, ...
            weight_name: the file in a folder or repository.

        Raises:
            MissingModelError: if there is no such file, or PEFT is not installed.
            TetherCacheError: if it is no adapter of this transformer.
            ValueError: if the name is taken.
        """
        names = self.get_list_adapters().get("transformer", [])
        if adapter_name is None:
            adapter_name = next(
                name for name in map("default_{}".format, count()) if name not in names
            )
        instance("adapter_name", adapter_name, str, "a text")
        if not isinstance(source, Mapping):
            source = Path(source)
            if weight_name is not None and not os.path.isdir(source):
                source, weight_name = fetch_file(HubFile(str(source), weight_name)), None
        add_lora(self.transformer, source, adapter_name, weight_name)
