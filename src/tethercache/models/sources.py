"""From a model's name to files on this machine.

A model is a shipped one, a preset, a local folder or checkpoint, a hub id (`owner/name`) or one
file on the hub (`owner/name/path.pt`). `find` says what a name means and reads nothing but local
configuration; `fetch` brings the files: from the hub's cache, where nobody is asked about a file
that is there; or else from the hub, which resumes, and is not asked if `HF_HUB_OFFLINE` is set; or
from a folder of weights alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from tethercache.arguments import positive
from tethercache.errors import MissingModelError
from tethercache.files import add_file, sha256
from tethercache.foreign import read_json, reading, weight_map
from tethercache.models.folders import CLASSES, INDEX, has_part
from tethercache.models.presets import (
    BASE,
    BASE_PARTS,
    BASES,
    CHECKPOINTS,
    PREFERENCE,
    PRESETS,
    SHIFT,
    HubFile,
    Preset,
)
from tethercache.models.settings import Settings
from tethercache.text import reason

SHIPPED = {"tiny": Path(__file__).parent / "tiny"}
"""Models that come with the package."""

_KINDS = ("*.json", "*.safetensors", "*.txt", "*.model")  # nothing that is a program


@dataclass(frozen=True)
class Model:
    """What a model's name means.

    Attributes:
        name: as the user gave it.
        settings: how to use it; None for a hub id, which is known only once fetched.
        path: a local folder or checkpoint.
        preset: what to get from the hub.
        file: a single checkpoint on the hub.
        repository: a whole pipeline on the hub.
        policy: spec of the policy to use by default.
    """

    name: str
    settings: Settings | None = None
    path: Path | None = None
    preset: Preset | None = None
    file: HubFile | None = None
    repository: str = ""
    policy: str = "tethercache"


@dataclass(frozen=True)
class Parts:
    """A model whose files are all on this machine.

    Attributes:
        pipeline: folder in the pipeline format of diffusers: the model, or the base that lends it
            the parts it lacks.
        settings: how to use it.
        transformer: checkpoint that replaces the pipeline's own transformer.
        lora: adapter that is part of the model.
        shift: flow shift of a scheduler to make; None: the pipeline has its own.
        prefer: which state dict of the checkpoint is meant, the best first.
    """

    pipeline: Path
    settings: Settings
    transformer: Path | None = None
    lora: Path | None = None
    shift: float | None = None
    prefer: Sequence[str] = PREFERENCE

    def fingerprint(self) -> str:
        """SHA-256 over what the model consists of and how it is used.

        Of a whole pipeline that is `fingerprint` of its folder; else the names and contents of all
        files, and beside them settings, flow shift and `prefer`.
        """
        if self.transformer is None and self.lora is None:
            return fingerprint(self.pipeline)
        settings = self.settings.config()
        if settings["first_sigmas"] is None:  # which records of before do not know
            del settings["first_sigmas"]
        used = {"settings": settings, "shift": self.shift, "prefer": [*self.prefer]}
        digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
        folders = [self.pipeline / part for part in BASE_PARTS]
        for root in (*filter(None, (self.transformer, self.lora)), *folders):
            for path in _files(root):
                name = path.relative_to(root.parent).as_posix()
                digest.update(f"{name}\0{_hash(path)}\n".encode())
        return digest.hexdigest()


def find(name: str) -> Model:
    """What a model's name means; reads local configuration at most.

    Raises:
        MissingModelError: if `name` is a path and nothing usable is there, or no name of a model.
        DamagedModelError: if its configuration cannot be read.
    """
    if name in PRESETS:
        preset = PRESETS[name]
        return Model(name, preset.settings, preset=preset, policy=preset.policy)
    path = SHIPPED.get(name, Path(name))
    # unlike methods of `Path`, these say no to names that the system refuses
    if os.path.isfile(path / INDEX):
        return Model(name, read_settings(path), path)
    if os.path.isfile(path) or (
        os.path.isdir(path) and any(file.suffix in CHECKPOINTS for file in path.glob("*"))
    ):
        return Model(name, Settings(), path)
    looks_local = (
        name in SHIPPED or os.path.exists(path) or path.is_absolute() or name.startswith(".")
    )
    parts = name.split("/")
    on_hub = not looks_local and len(parts) > 2 and path.suffix in CHECKPOINTS
    if on_hub and _is_repository("/".join(parts[:2])):
        return Model(name, Settings(), file=HubFile("/".join(parts[:2]), "/".join(parts[2:])))
    if looks_local or len(parts) != 2 or path.suffix in CHECKPOINTS or not _is_repository(name):
        raise MissingModelError(
            f"no model at `{name}`: expected a folder with {INDEX}, a checkpoint "
            f"({', '.join(CHECKPOINTS)}), a hub id (owner/name) or one of: "
            f"{', '.join([*SHIPPED, *PRESETS])}"
        )
    return Model(name, repository=name)


def _is_repository(name: str) -> bool:
    """Whether the hub could have a repository `owner/name`."""
    try:
        huggingface_hub.utils.validate_repo_id(name)  # type: ignore[attr-defined]
    except huggingface_hub.errors.HFValidationError:
        return False
    return True


def fetch(model: Model, weights_dir: Path | None = None) -> Parts:
    """Bring a model's files onto this machine.

    Args:
        model: what `find` returned.
        weights_dir: take everything that is on the hub from this folder instead. A file of
            `owner/name` is looked for under `owner/name/`, under `name/` and in the folder itself.

    Raises:
        MissingModelError: if a file cannot be had; it says which, and what to do.
        TetherCacheError: if a configuration or the checkpoint cannot be read, or is none of a video
            model; the checkpoint is looked at before the base model is.
    """
    path = model.path
    if model.repository:
        path = _fetch_pipeline(model.repository, weights_dir)
    if path is not None and (path / INDEX).is_file():
        index, settings = _read_index(path), read_settings(path)
        if has_part(index, "vae"):  # a whole pipeline
            ours = "FlowMatchLCM" in str(index.get("scheduler"))
            return Parts(path, settings, shift=None if ours else SHIFT)
        shift = _shift(path)
        base = _base_of(path / "transformer", PREFERENCE)
        return Parts(fetch_base(weights_dir, base), settings, path / "transformer", shift=shift)
    preset, lora = model.preset, None
    if preset is not None:
        path = fetch_file(preset.transformer, weights_dir)
        lora = fetch_file(preset.lora, weights_dir) if preset.lora is not None else None
    elif model.file is not None:
        path = fetch_file(model.file, weights_dir)
    assert path is not None
    assert model.settings is not None
    prefer = preset.prefer if preset is not None else PREFERENCE
    base = _base_of(path, prefer)
    return Parts(
        fetch_base(weights_dir, base),
        model.settings,
        path,
        lora,
        shift=preset.shift if preset is not None else SHIFT,
        prefer=prefer,
    )


def _base_of(path: Path, prefer: Sequence[str]) -> str:
    """The base of a checkpoint, which is looked at before gigabytes are fetched for it."""
    from tethercache.models.checkpoints.describe import describe
    from tethercache.models.checkpoints.read import read_checkpoint

    return BASES.get(describe(read_checkpoint(path, prefer=prefer))["in_channels"], BASE)


def fetch_file(file: HubFile, weights_dir: Path | None = None) -> Path:
    """One file of the hub on this machine; see `fetch`."""
    if weights_dir is not None:
        return _in_folder(weights_dir, file)
    if (cached := present(file)) is not None:
        return cached
    try:
        return Path(huggingface_hub.hf_hub_download(file.repository, file.path))
    except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise _unavailable(f"`{file.path}` of {file.repository}", file.size, error) from error


def fetch_base(weights_dir: Path | None = None, base: str = BASE) -> Path:
    """The folder of a base model, with its VAE, text encoder and tokenizer; see `fetch`."""
    return _fetch_pipeline(base, weights_dir, BASE_PARTS)


def present(file: HubFile, weights_dir: Path | None = None) -> Path | None:
    """Where a file of the hub is on this machine, or None; asks nobody."""
    if weights_dir is not None:
        return next((path for path in _places(weights_dir, file) if os.path.isfile(path)), None)
    found = huggingface_hub.try_to_load_from_cache(file.repository, file.path)
    return Path(found) if isinstance(found, str) else None


def preset_lacks(preset: Preset, weights_dir: Path | None = None) -> list[str]:
    """Which of a preset's own files are not on this machine; asks nobody."""
    return [str(file) for file in preset.files if present(file, weights_dir) is None]


def base_lacks(weights_dir: Path | None = None, base: str = BASE) -> list[str]:
    """What of a base model is not on this machine; asks nobody."""
    index = present(HubFile(base, INDEX), weights_dir)
    return [INDEX, *BASE_PARTS] if index is None else _lacking(index.parent, BASE_PARTS)


def read_settings(folder: str | Path) -> Settings:
    """The settings of a local model, from its configuration alone.

    Raises:
        DamagedModelError: if the configuration cannot be read.
    """
    with reading(Path(folder) / INDEX):
        return Settings.of(_read_index(Path(folder)))


def fingerprint(folder: str | Path) -> str:
    """SHA-256 over names and contents of a local model's weights and configurations."""
    digest = hashlib.sha256()
    for path in _files(Path(folder)):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        add_file(digest, path)
    return digest.hexdigest()


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    safe = any(path.suffix == ".safetensors" for path in files)
    wanted = (".json", *((".safetensors",) if safe else CHECKPOINTS))
    return [path for path in files if path.suffix in wanted]


def _hash(path: Path) -> str:
    """SHA-256 of a file; the hub's cache names large files by it already."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", stored.name):
        return stored.name
    return sha256(path)


def _read_index(folder: Path) -> dict[str, Any]:
    return read_json(folder / INDEX)


def _shift(folder: Path) -> float:
    path = folder / "scheduler/scheduler_config.json"
    with reading(path):
        return float(positive("shift", read_json(path).get("shift", SHIFT)))


def _fetch_pipeline(
    repository: str, weights_dir: Path | None, parts: Iterable[str] | None = None
) -> Path:
    """The folder of a pipeline on the hub with `parts`, or with all that its index names."""
    index = HubFile(repository, INDEX)
    folder = fetch_file(index, weights_dir).parent
    if parts is None:
        index_of = _read_index(folder)
        parts = [part for part in CLASSES if has_part(index_of, part)]
    parts = list(parts)
    if weights_dir is None and _lacking(folder, parts):
        allowed = [INDEX, *(f"{part}/{kind}" for part in parts for kind in _KINDS)]
        try:
            folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=allowed))
        except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise _unavailable(repository, None, error) from error
    if lacking := _lacking(folder, parts):
        raise MissingModelError(
            f"{repository} is not complete in {folder}: no {', '.join(lacking)}; "
            "get them with `tethercache models show` as a guide"
        )
    return folder


def _lacking(folder: Path, parts: Iterable[str]) -> list[str]:
    """What is missing of a pipeline's parts: whole parts, their weights, or shards of these."""
    lacking = []
    for part in parts:
        root = folder / part
        if not any(root.glob("*.json")):
            lacking.append(f"{part}/")
        elif (root / "config.json").is_file():
            indices = root.glob("*.safetensors.index.json")
            shards = {name for index in indices for name in weight_map(index).values()}
            lacking += [
                f"{part}/{name}" for name in sorted(shards) if not os.path.isfile(root / name)
            ]
            if not any(root.glob("*.safetensors")):
                lacking.append(f"{part}/*.safetensors")
        elif (root / "tokenizer_config.json").is_file() and not (
            (root / "tokenizer.json").is_file() or any(root.glob("*.model"))
        ):
            lacking.append(f"{part}/tokenizer.json")
    return lacking


def _places(weights_dir: Path, file: HubFile) -> list[Path]:
    owner, _, name = file.repository.partition("/")
    roots = (weights_dir / owner / name, weights_dir / name, weights_dir)
    return [root / file.path for root in roots] + [weights_dir / Path(file.path).name]


def _in_folder(weights_dir: Path, file: HubFile) -> Path:
    for path in _places(weights_dir, file):
        if os.path.isfile(path):
            return path
    raise MissingModelError(
        f"{weights_dir} lacks `{file.path}` of {file.repository}{_size(file.size)}; it may lie in "
        f"{file.repository}/, in {file.repository.split('/')[1]}/ or in the folder itself"
    )


def _unavailable(what: str, size: int | None, error: Exception) -> MissingModelError:
    told = reason(error).split(". ")[0].rstrip(".")
    return MissingModelError(
        f"cannot get {what}{_size(size)} from the hub or its cache ({told}); "
        "download it elsewhere and name the folder with --weights-dir"
    )


def _size(size: int | None) -> str:
    return f" ({size / 1e9:.2f} GB)" if size else ""
