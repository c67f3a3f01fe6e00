"""The JSON beside a video: everything that is needed to generate it again, and how it went."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tethercache.video.files import Frames, as_frames, write_atomically

SCHEMA_VERSION = 1


class SidecarError(ValueError):
    """The JSON beside a video is damaged or of another schema."""


@dataclass(frozen=True)
class Sidecar:
    """The record of one generated video; the dataclass is the JSON.

    Attributes:
        prompt: the text, as it was given.
        model: name, hub id or folder.
        model_hash: of the weights, and of what the model's files say about their use.
        policy: the full spec string, every value written out.
        seed: of the noise.
        sample: number of the sample for this prompt and seed, from 0.
        width: pixels.
        height: pixels.
        fps: frames a second; a string such as "30000/1001" in the JSON if it is no whole number.
        num_frames: pixel frames in the file.
        num_latent_frames: latent frames generated, of which the frames may be a part.
        chunk_sizes: latent frames of each chunk.
        dtype: of the transformer, such as "float32".
        device: such as "cpu" or the name of the GPU.
        chunk_hashes: sha256 of each chunk's uint8 frames, before encoding.
        frames_hash: sha256 of all frames.
        wall_seconds: from the first noise to the last frame in the file.
        frames_per_second: `num_frames / wall_seconds`, the speed of generation.
        settings: what else decides about the frames, any JSON: noise levels before the flow shift,
            the shift, context noise, PyTorch's threads, where the text encoder worked; and what of
            the rest was not left as it is: adapters, prefix, size of the decoding tiles ...
        command: the command line, if there was one.
        versions: of the software.
        schema_version: of this record.
    """

    prompt: str
    model: str
    model_hash: str
    policy: str
    seed: int
    sample: int
    width: int
    height: int
    fps: Fraction
    num_frames: int
    num_latent_frames: int
    chunk_sizes: tuple[int, ...]
    dtype: str
    device: str
    chunk_hashes: tuple[str, ...]
    frames_hash: str
    wall_seconds: float
    frames_per_second: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: software_versions())
    schema_version: int = SCHEMA_VERSION


def software_versions() -> dict[str, str]:
    """Versions of what decides about the frames and the file."""
    versions = {"python": platform.python_version()}
    for package in ("tethercache", "torch", "diffusers", "transformers", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "not installed"
    return versions


class FrameHasher:
    """sha256 of a video's raw frames, chunk by chunk and in total; stores no frames."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._chunk_hashes: list[str] = []

    def update(self, frames: Frames) -> str:
        """Add a chunk of uint8 frames `[F, H, W, 3]`; returns its digest in hexadecimal."""
        data = as_frames(frames).data
        self._total.update(data)
        self._chunk_hashes.append(hashlib.sha256(data).hexdigest())
        return self._chunk_hashes[-1]

    @property
    def chunk_hashes(self) -> tuple[str, ...]:
        """The digest of each chunk so far."""
        return tuple(self._chunk_hashes)

    @property
    def frames_hash(self) -> str:
        """The digest of all frames so far; how they were cut into chunks does not matter."""
        return self._total.hexdigest()


def sidecar_path(video: str | os.PathLike[str]) -> Path:
    """`NAME.json` for the video `NAME.mp4`."""
    return Path(video).with_suffix(".json")


def write_sidecar(video: str | os.PathLike[str], sidecar: Sidecar) -> Path:
    """Write the record of a video beside it, replacing an older one; returns its path."""
    record = asdict(sidecar)
    fps = sidecar.fps
    record["fps"] = fps.numerator if fps.denominator == 1 else str(fps)
    path = sidecar_path(video)
    write_atomically(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return path


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read the record of a video.

    Args:
        path: the video or its JSON.

    Raises:
        FileNotFoundError: there is none.
        SidecarError: it is damaged or of another schema.
    """
    path = sidecar_path(path)
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise SidecarError(f"{path} is not JSON: {error}") from error
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found != SCHEMA_VERSION:
        raise SidecarError(f"{path} has schema_version {found!r}, not {SCHEMA_VERSION}")
    names = {f.name for f in fields(Sidecar)}
    if wrong := sorted(names.symmetric_difference(record)):
        raise SidecarError(f"{path} has missing or unknown keys: {', '.join(wrong)}")
    try:
        record["fps"] = Fraction(record["fps"])
        for name in ("chunk_sizes", "chunk_hashes", "command"):
            record[name] = tuple(record[name])
    except (TypeError, ValueError) as error:
        raise SidecarError(f"{path} has a wrong value: {error}") from error
    return Sidecar(**record)
