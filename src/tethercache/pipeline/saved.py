"""A pipeline and its files: loaded with care by this project, and by plain diffusers too.

Beside a saved model lies `pipeline.py`, which only names the class of this package. Plain
diffusers runs it (`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`), and then
loads the same files into the same class. What is loaded by `CausalVideoPipeline.from_pretrained`
runs nothing out of a folder, whatever it holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, FlowMatchLCMScheduler

from tethercache.conditioning import check_tokenizer
from tethercache.foreign import reading
from tethercache.models import Parts, Settings, fetch, find
from tethercache.models.checkpoints.lora import merge_lora
from tethercache.models.components import adapters, components, warn_of_strange
from tethercache.models.folders import class_name, write_code
from tethercache.rollout import Steps


class SavedPipeline(DiffusionPipeline):
    """The part of `CausalVideoPipeline` that has to do with files."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | Parts,
        *,
        weights_dir: str | Path | None = None,
        loras: Sequence[tuple[str | Path, float]] = (),
        **kwargs: Any,
    ) -> Any:
        """Load a model. No code out of its folder is run.

        Args:
            pretrained_model_name_or_path: a shipped model (`tiny`), a preset (`self-forcing`), a
                local folder or checkpoint, a hub id, or what `models.fetch` returned.
            weights_dir: take what is on the hub from this folder instead.
            loras: files of LoRA adapters and their scales, merged in this order.
            **kwargs: those of `DiffusionPipeline.from_pretrained`, such as `dtype` (which may be
                called `torch_dtype`). `trust_remote_code` changes nothing here.

        Raises:
            MissingModelError: if a path holds no model, or a file cannot be had.
            TetherCacheError: if its files cannot be read, or are not those of such a model.
            ValueError: if an argument is not what it has to be.
        """
        kwargs = _settled(kwargs)
        check_scheduler(kwargs.get("scheduler"))
        parts = pretrained_model_name_or_path
        if not isinstance(parts, Parts):
            parts = fetch(find(str(parts)), Path(weights_dir) if weights_dir else None)
        merged = adapters(parts, loras)
        if kwargs.get("quantization_config") is not None:
            _check_quantisable(parts, merged)
        made = components(parts, kwargs)
        with reading(f"`{parts.pipeline}`"):
            # nothing but tensors is unpickled, not even by others
            pipe = super().from_pretrained(
                str(parts.pipeline), **(made | {"use_safetensors": True} | kwargs)
            )
        for adapter, scale in merged:
            merge_lora(pipe.transformer, adapter, scale)
        pipe._check_parts(parts.pipeline)
        return pipe

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers does, but for the class: it is this one, and no code in the folder."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config["_class_name"] = cls.__name__
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As diffusers does; see `save_config`.

        Raises:
            ValueError: if adapters are beside the weights, which a saved model has no place for.
        """
        if getattr(self.transformer, "peft_config", None):
            raise ValueError(
                "the transformer has adapters beside its weights, and a saved model has no place "
                "for them: call `unload_lora_weights`, after `fuse_lora` if they are to stay"
            )
        super().save_pretrained(save_directory, **kwargs)

    def save_config(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As diffusers does, and beside it the file with which plain diffusers loads the model."""
        os.makedirs(save_directory, exist_ok=True)
        write_code(Path(save_directory))
        super().save_config(save_directory, **kwargs)

    def to_json_string(self) -> str:
        """The configuration as `model_index.json` has it, without the path that it came from."""
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config | {"_class_name": class_name()}, indent=2, sort_keys=True) + "\n"

    @property
    def settings(self) -> Settings:
        """How the model was trained to be used."""
        return Settings.of(dict(self.config))

    def _check_parts(self, where: Path) -> None:
        """Check what only the loaded parts tell, and warn of weights that are no numbers."""
        if self.tokenizer is not None and self.text_encoder is not None:
            vocabulary = self.text_encoder.config.vocab_size
            check_tokenizer(self.tokenizer, self.config.max_sequence_length, vocabulary, where)
        with reading(f"the scheduler of {where}"):
            for sigmas in filter(None, (self.settings.sigmas, self.settings.first_sigmas)):
                Steps.from_scheduler(self.scheduler, list(sigmas))
        for name in ("transformer", "vae", "text_encoder"):
            warn_of_strange(name, getattr(self, name))


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that the model was not distilled with; None is none."""
    if scheduler is not None and not isinstance(scheduler, FlowMatchLCMScheduler):
        raise ValueError(
            f"`scheduler` ({type(scheduler).__name__}) must be a `FlowMatchLCMScheduler`: the "
            "model is distilled to few steps that start from fresh noise; their levels are "
            "`sigmas` and the scheduler's `shift`"
        )


def _check_quantisable(parts: Parts, merged: Sequence[Any]) -> None:
    """Refuse to quantise what diffusers does not load itself: it would silently stay as it is."""
    if parts.transformer is not None:
        raise ValueError(
            "`quantization_config` needs a whole model in the format of diffusers, not "
            f"{parts.transformer}: load it without, save it (`pipe.save_pretrained`), and load that"
        )
    if merged:
        raise ValueError(
            "`quantization_config` and `loras` do not go together: quantised weights take no "
            "adapter into them; load them behind it with `load_lora_weights`"
        )


def _settled(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of diffusers' loader without what is called otherwise, or means nothing here.

    Raises:
        ValueError: for one that cannot be served.
    """
    given = dict(given)
    given.pop("trust_remote_code", None)
    if given.pop("custom_pipeline", None) is not None:
        raise ValueError(
            "`custom_pipeline` is not taken: no code of others is run; plain "
            "`DiffusionPipeline.from_pretrained` does that"
        )
    if (dtype := given.pop("torch_dtype", None)) is not None:
        if given.get("dtype") is not None:
            raise ValueError("give `dtype` or `torch_dtype`, one of the two")
        given["dtype"] = dtype
    return given
