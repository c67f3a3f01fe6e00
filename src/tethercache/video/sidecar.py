"""The JSON beside a video: everything that is needed to generate it again, and how it went."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from tethercache.arguments import as_path
from tethercache.files import read_object, write_atomically
from tethercache.software import versions
from tethercache.video.frames import Frames, as_frames

SCHEMA_VERSION = 2
_FIRST = 1  # of version 0.1.0: no `request`, and `frames_hash` was sha256 of all frames
MAX_BYTES = 64 << 20
"""Of a record that is read; that of a day of video has about 10 MB."""
_LONGEST = 80  # characters of a value in a message


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
        frames_hash: of all frames, made of `chunk_hashes`, see `chain`; empty until all are made.
        wall_seconds: from the first noise to the last frame in the file.
        frames_per_second: `num_frames / wall_seconds`, the speed of generation.
        settings: what else decides about the frames, any JSON: noise levels before the flow shift,
            the shift, context noise, PyTorch's threads, where the text encoder worked; and what of
            the rest was not left as it is: adapters, prefix, size of the decoding tiles ...
        command: the command line, if there was one; see `shareable`.
        request: what was asked for (`VideoRequest.to_dict`), its paths `shareable`; empty in a
            record of version 0.1.0.
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
    chunk_hashes: tuple[str, ...] = ()
    frames_hash: str = ""
    wall_seconds: float = 0.0
    frames_per_second: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: software_versions())
    schema_version: int = SCHEMA_VERSION

    @property
    def is_complete(self) -> bool:
        """Whether all frames were made; before, only the request is known."""
        return bool(self.frames_hash)


def software_versions() -> dict[str, str]:
    """Versions of what decides about the frames and the file."""
    return versions("torch", "diffusers", "transformers", "av")


def shareable(path: str | os.PathLike[str], folder: str | os.PathLike[str] = ".") -> str:
    """A path without what is this machine's: relative to `folder`, which is that of the record.

    If the two have nothing in common but the root, the last part is left.
    """
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    root, *rest = Path(path).parts
    if [root, *rest[:1]] != list(Path(folder).parts[:2]):
        return os.path.basename(path)
    return os.path.relpath(path, folder)


def command_line(arguments: Sequence[str] | None = None, keep: str = "") -> tuple[str, ...]:
    """The command line as a record holds it: absolute paths are `shareable` from this folder on.

    Args:
        arguments: program and arguments; those of this process by default.
        keep: an argument that is no path, whatever it looks like: the prompt.
    """
    program, *rest = sys.argv if arguments is None else arguments
    result = [Path(program).name]
    for argument in rest:
        start, equals, value = argument.partition("=")
        if not (equals and start.startswith("--")):
            start, equals, value = "", "", argument
        is_path = argument != keep and Path(value).is_absolute()
        result.append(f"{start}{equals}{shareable(value) if is_path else value}")
    return tuple(result)


def chain(total: str, chunk_hash: str) -> str:
    """The hash of all frames up to the end of a chunk, in hexadecimal.

    It needs hashes alone, so that it goes on in another process and is known for old records.

    Args:
        total: the same up to the chunk before; empty for the first chunk.
        chunk_hash: sha256 of the chunk's frames, in hexadecimal.
    """
    return hashlib.sha256((total + chunk_hash).encode()).hexdigest()


class FrameHasher:
    """sha256 of a video's raw frames, chunk by chunk and in total; stores no frames."""

    def __init__(self) -> None:
        self._total = ""
        self._chunk_hashes: list[str] = []

    def update(self, frames: Frames) -> str:
        """Add a chunk of uint8 frames `[F, H, W, 3]`; returns its digest in hexadecimal."""
        self._chunk_hashes.append(hashlib.sha256(as_frames(frames).data).hexdigest())
        self._total = chain(self._total, self._chunk_hashes[-1])
        return self._chunk_hashes[-1]

    @property
    def chunk_hashes(self) -> tuple[str, ...]:
        """The digest of each chunk so far."""
        return tuple(self._chunk_hashes)

    @property
    def frames_hash(self) -> str:
        """The digest of all chunks so far, see `chain`; empty before the first."""
        return self._total

    def state_dict(self) -> dict[str, Any]:
        """All that has to be remembered between two chunks, as JSON takes it."""
        return {"chunk_hashes": list(self._chunk_hashes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one was; forget what is here."""
        self._chunk_hashes = list(state["chunk_hashes"])
        self._total = functools.reduce(chain, self._chunk_hashes, "")


def sidecar_path(video: str | os.PathLike[str]) -> Path:
    """`NAME.json` for the video `NAME.mp4`."""
    path = as_path("video", video)
    if not path.name:
        raise ValueError(f"the video ({str(path)!r}) must have the name of a file")
    return path.with_suffix(".json")


def sidecar_object(sidecar: Sidecar) -> dict[str, Any]:
    """The record as an object of JSON."""
    record = asdict(sidecar)
    fps = sidecar.fps
    record["fps"] = fps.numerator if fps.denominator == 1 else str(fps)
    return record


def dump_sidecar(sidecar: Sidecar) -> bytes:
    """The record as JSON."""
    text = json.dumps(sidecar_object(sidecar), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # what is no character, JSON writes the same way


def write_sidecar(video: str | os.PathLike[str], sidecar: Sidecar) -> Path:
    """Write the record of a video beside it, replacing an older one; returns its path."""
    path = sidecar_path(video)
    write_atomically(path, dump_sidecar(sidecar))
    return path


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read the record of a video.

    Args:
        path: the video or its JSON.

    Raises:
        FileNotFoundError: there is none.
        SidecarError: it is damaged, of a schema that is not known or larger than any record.
    """
    path = sidecar_path(path)
    try:
        record = read_object(path, MAX_BYTES)
    except ValueError as error:
        raise SidecarError(f"{path} is no record: {error}") from error
    return sidecar_from(record, path)


def sidecar_from(record: dict[str, Any], path: os.PathLike[str] | str = "the record") -> Sidecar:
    """The record that an object of JSON is; `sidecar_object` reversed.

    Args:
        record: the object; it is left alone.
        path: what to call it in messages.

    Raises:
        SidecarError: see `read_sidecar`.
    """
    record = dict(record)
    found = record.get("schema_version")
    if type(found) is not int or not _FIRST <= found <= SCHEMA_VERSION:
        raise SidecarError(f"{path} has schema_version {_shown(found)}, not {SCHEMA_VERSION}")
    if found == _FIRST:
        record |= {"request": record.get("request", {}), "schema_version": SCHEMA_VERSION}
    names = {f.name for f in fields(Sidecar)}
    if names != record.keys():
        wrong = [*sorted(names - record.keys()), *map(_shown, record.keys() - names)][: len(names)]
        raise SidecarError(f"{path} has missing or unknown keys: {', '.join(wrong)}")
    for name, (is_right, rule) in _RULES.items():
        if not is_right(record[name]):
            raise SidecarError(
                f"{path} has a wrong value: `{name}` must be {rule}, got {_shown(record[name])}"
            )
    if found == _FIRST and record["frames_hash"] and record["chunk_hashes"]:
        record["frames_hash"] = functools.reduce(chain, record["chunk_hashes"], "")
    record["fps"] = Fraction(record["fps"])
    for name in ("chunk_sizes", "chunk_hashes", "command"):
        record[name] = tuple(record[name])
    return Sidecar(**record)


def _shown(value: object) -> str:
    """A value for a message: what kind it is, and no more of it than fits there."""
    text = ascii(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> _Rule:
    def is_right(value: Any) -> bool:
        return type(value) is int and least <= value < 1 << 63

    return is_right, f"a whole number from {least} on"


def _list_of(kind: type, what: str) -> _Rule:
    def is_right(value: Any) -> bool:
        return isinstance(value, list) and all(type(item) is kind for item in value)

    return is_right, f"a list of {what}"


def _is_rate(value: Any) -> bool:
    """A positive whole number, or two with a slash between them."""
    if type(value) is str and re.fullmatch(r"[1-9][0-9]{0,8}/[1-9][0-9]{0,8}", value):
        return True
    return type(value) is int and 0 < value < 10**9


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


_TEXT = (lambda value: type(value) is str), "text"
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ("prompt", "model", "model_hash", "policy", "dtype", "device", "frames_hash"), _TEXT
    ),
    "seed": ((lambda value: type(value) is int), "a whole number"),
    "fps": (_is_rate, 'a whole number or a fraction such as "30000/1001"'),
    **dict.fromkeys(("sample", "num_frames", "num_latent_frames"), _whole(0)),
    **dict.fromkeys(("width", "height"), _whole(1)),
    **dict.fromkeys(("wall_seconds", "frames_per_second"), (_is_duration, "a number from 0 on")),
    "chunk_sizes": _list_of(int, "whole numbers"),
    "chunk_hashes": _list_of(str, "texts"),
    "command": _list_of(str, "texts"),
    **dict.fromkeys(
        ("settings", "versions", "request"), ((lambda value: type(value) is dict), "an object")
    ),
}
