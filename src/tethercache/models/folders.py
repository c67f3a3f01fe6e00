"""A pipeline's folder is checked as a whole before anything in it is built or loaded.

diffusers and transformers import what `model_index.json` names, build what the configurations say
and fill in what the weights lack. Here a folder may name known classes only, its numbers have
limits, and every parameter must be in its weights with the right shape: all from configurations and
headers, in well under a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from tethercache.arguments import fits, number, whole_number
from tethercache.errors import DamagedModelError, WrongModelError
from tethercache.files import write_atomically
from tethercache.foreign import MOST_JSON, read_json, reading, regular_file, some
from tethercache.models.settings import Settings
from tethercache.software import versions

if TYPE_CHECKING:
    from torch.nn import Module

INDEX = "model_index.json"

CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "transformer": ("diffusers", ("WanTransformer3DModel",)),
    "vae": ("diffusers", ("AutoencoderKLWan",)),
    "scheduler": ("diffusers", ("FlowMatchLCMScheduler",)),
    "text_encoder": ("transformers", ("T5EncoderModel", "UMT5EncoderModel")),
    "tokenizer": (
        "transformers",
        ("PreTrainedTokenizerFast", "T5Tokenizer", "T5TokenizerFast", "TokenizersBackend"),
    ),
}
"""What a part of a pipeline may be: its library, and its classes there."""

MOST = 1 << 20
"""The largest whole number in a configuration: four times the largest vocabulary."""

MOST_LAYERS = 1000
"""The most layers, blocks or entries of a list that a configuration may ask for."""

_CODE = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation")


CODE = "pipeline"
"""The file with code beside a saved model, without `.py`."""

_IMPORT = '''"""For `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

It only names the class of the package: pip install tethercache
"""

from tethercache.pipeline import CausalVideoPipeline

__all__ = ["CausalVideoPipeline"]
'''


def has_part(index: Mapping[str, Any], part: str) -> bool:
    """Whether an index says that the folder has a part."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)


def class_name() -> list[str]:
    """What an index says of the class, so that diffusers looks for it in the file with code."""
    return [CODE, "CausalVideoPipeline"]


def write_code(folder: Path) -> None:
    """Write the file that lets plain diffusers load a folder; this project never runs it."""
    (folder / f"{CODE}.py").write_text(_IMPORT, "utf-8")


def write_index(folder: Path, settings: Settings, **parts: str) -> None:
    """Write the index of a pipeline's folder, and the file that lets plain diffusers load it.

    Args:
        folder: where.
        settings: how the model is used.
        parts: the class of each part that is there; the others are named as absent.
    """
    index = {
        "_class_name": class_name(),
        "_diffusers_version": versions("diffusers")["diffusers"],
        **{
            part: [library, parts[part]] if part in parts else [None, None]
            for part, (library, _) in CLASSES.items()
        },
        **settings.config(),
    }
    write_code(folder)
    write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")


def check(folder: Path, made: Iterable[str] = ()) -> None:
    """Check a folder in the format of diffusers.

    Args:
        folder: of the pipeline.
        made: parts that are not taken from it.

    Raises:
        MissingModelError: if a file is not there.
        DamagedModelError: if one cannot be read, or says what cannot be.
        WrongModelError: if it holds other things than a video model of the Wan family.
    """
    index = read_json(folder / INDEX)
    configs = {}
    for part in CLASSES:
        if part in made:
            continue
        name = _class_of(folder, index, part)
        if part == "scheduler":
            _check_scheduler(folder / part, name)
        elif part == "tokenizer":
            for path in (folder / part).glob("*"):
                if regular_file(path) > MOST_JSON:
                    raise DamagedModelError(f"{path} is too large for a part of a tokenizer")
        else:
            model = _built(folder / part, name)
            _check_weights(folder / part, model)
            configs[part] = _whole_config(model)
    if "vae" in configs:
        _check_vae(folder / "vae", configs["vae"])
    _check_channels(folder, configs)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a part, its numbers within limits.

    Raises:
        TetherCacheError: as `check`.
    """
    config = read_json(folder / "config.json")
    _check_numbers(folder, config)
    if code := [key for key in _CODE if config.get(key) is not None]:
        raise WrongModelError(f"{folder} asks for code that is not part of it ({code[0]})")
    return config


def _check_scheduler(folder: Path, name: str) -> None:
    import diffusers

    config = read_json(folder / "scheduler_config.json")
    _check_numbers(folder, config)
    with reading(folder):
        _check_types(getattr(diffusers, name), config)


def _class_of(folder: Path, index: Mapping[str, Any], part: str) -> str:
    library, classes = CLASSES[part]
    if not has_part(index, part):
        raise WrongModelError(f"{folder / INDEX} names no {part}")
    if index[part][0] != library or index[part][1] not in classes:
        named = ".".join(map(str, index[part]))
        raise WrongModelError(
            f"the {part} of {folder} is a {named}; it must be {' or '.join(classes)} of {library}"
        )
    return str(index[part][1])


def _check_numbers(folder: Path, config: Mapping[str, Any]) -> None:
    for key, value in _leaves(config):
        layers = "layers" in key or "blocks" in key
        try:
            if isinstance(value, list):
                whole_number(f"len({key})", len(value), most=MOST_LAYERS)
            elif isinstance(value, int) and not isinstance(value, bool):
                whole_number(key, value, -MOST, MOST_LAYERS if layers else MOST)
            elif isinstance(value, float):
                number(key, value)
        except ValueError as error:
            raise DamagedModelError(f"the configuration of {folder}: {error}") from None


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values in a configuration with their keys, however deep, and the lists."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
            continue
        yield key, value
        if isinstance(value, list):
            left += ((key, item) for item in value)


def _built(folder: Path, name: str) -> Module:
    """The model that a configuration asks for, without storage for its parameters."""
    import diffusers
    import torch
    import transformers

    config = read_config(folder)
    with reading(folder), torch.device("meta"):
        if name in CLASSES["text_encoder"][1]:
            cls = getattr(transformers, name)
            model: Module = cls(cls.config_class.from_dict(config))
        else:
            _check_types(getattr(diffusers, name), config)
            model = getattr(diffusers, name).from_config(config)
    return model


def _check_types(cls: Any, config: Mapping[str, Any]) -> None:
    """Compare a configuration with the signature of its class, which nobody else does."""
    for key, hint in get_type_hints(cls.__init__).items():
        if key in config and not fits(config[key], hint):
            shown = getattr(hint, "__name__", hint)
            raise ValueError(f"`{key}` ({config[key]!r:.80}) must be of the type {shown}")


def _whole_config(model: Any) -> dict[str, Any]:
    """The configuration of a model, with the defaults of its class for what the file leaves out."""
    config = model.config
    return dict(config) if isinstance(config, Mapping) else dict(config.to_dict())


def _check_weights(folder: Path, model: Module) -> None:
    """Compare the parameters that a configuration asks for with those in the files' headers."""
    from tethercache.models.checkpoints.containers import read_shapes

    expected, tied = _parameters(model)
    given: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        given |= read_shapes(path)
    if not given:
        other = next((path for path in folder.glob("*.bin")), None)
        found = f"; {other.name} is not read, because it could run code" if other else ""
        raise DamagedModelError(f"cannot load {folder}: it has no safetensors{found}")
    missing = [key for key in expected if key not in given and not tied[key] & given.keys()]
    wrong = [
        f"{key} {list(given[key])} for {list(shape)}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    problems = (some("missing", missing), some("of another shape", wrong))
    if found := "; ".join(filter(None, problems)):
        raise WrongModelError(f"the weights in {folder} do not fit its configuration: {found}")


def _parameters(model: Module) -> tuple[dict[str, tuple[int, ...]], dict[str, set[str]]]:
    """Shapes of a model's parameters by name, and for each the names that share it."""
    state = model.state_dict(keep_vars=True)
    shared: dict[int, set[str]] = {}
    for key, tensor in state.items():
        shared.setdefault(id(tensor), set()).add(key)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return shapes, {key: shared[id(tensor)] for key, tensor in state.items()}


def _check_vae(folder: Path, config: Mapping[str, Any]) -> None:
    """Check what decoding believes without looking at the weights."""
    with reading(folder):
        channels = config["z_dim"]
        for key in ("latents_mean", "latents_std"):
            if len(config[key]) != channels:
                raise ValueError(f"`{key}` ({len(config[key])}) must be `z_dim` ({channels})")
            for i, value in enumerate(config[key]):
                number(f"{key}[{i}]", value)
        if min(config["latents_std"]) <= 0:
            raise ValueError("`latents_std` must be above 0")
        spatial = 2 ** (len(config["dim_mult"]) - 1)
        if config["patch_size"] is not None:
            spatial *= whole_number("patch_size", config["patch_size"], least=1)
        temporal = 2 ** sum(map(bool, config["temperal_downsample"]))
        for key, is_ in (("spatial", spatial), ("temporal", temporal)):
            if config[f"scale_factor_{key}"] != is_:
                raise ValueError(f"`scale_factor_{key}` must be the {is_} of its layers")


def _check_channels(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the parts speak of the same channels; where a part is not there, nothing is."""
    transformer = configs.get("transformer", {})
    text, vae = configs.get("text_encoder", {}), configs.get("vae", {})
    for one, other, what in (
        (transformer.get("text_dim"), text.get("d_model"), "text"),
        (transformer.get("in_channels"), vae.get("z_dim"), "latents"),
        (transformer.get("in_channels"), transformer.get("out_channels"), "latents"),
    ):
        if one is not None and other is not None and one != other:
            raise WrongModelError(
                f"the parts of {folder} do not fit together: {what} of {one} and {other} channels"
            )
