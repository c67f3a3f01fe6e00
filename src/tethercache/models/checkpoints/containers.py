"""Files of tensors, recognised by how they begin; tensors are mapped, and nothing is executed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from tethercache.errors import DamagedModelError, UnsafeModelError, WrongModelError
from tethercache.foreign import reading, regular_file
from tethercache.models.checkpoints.ggml import read_gguf

MOST_TENSORS = 1 << 16
"""Of one file; the largest Wan has about a thousand."""


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: by their names, or state dicts by theirs.
        config: the model's configuration, as far as it came with them.
        layouts: how layers are stored, by their names, where that is told apart from the tensors.
    """

    tensors: object
    config: Mapping[str, Any] = MappingProxyType({})
    layouts: Mapping[str, Any] = MappingProxyType({})


_CUT = "it is damaged or cut off"
_WAY_OUT = (
    "Look for the same weights as safetensors; or, if you trust whoever made the file, load it in "
    "the program that it belongs to and save its tensors alone with safetensors.torch.save_file"
)


class Container(NamedTuple):
    """A kind of file.

    Attributes:
        name: what it is called.
        begins: matches its first bytes.
        read: opens such a file.
    """

    name: str
    begins: re.Pattern[bytes]
    read: Callable[[Path], Contents]


def read_file(path: Path) -> Contents:
    """Open a file of any known kind.

    Raises:
        MissingModelError: if there is none.
        DamagedModelError: if it is empty, cut off or of no known kind.
        UnsafeModelError: if it holds anything but tensors and plain containers.
        WrongModelError: if it has too many tensors.
    """
    size = regular_file(path)
    with reading(path), path.open("rb") as file:
        head = file.read(64)
    if size == 0:
        raise DamagedModelError(f"{path} is empty")
    if head.startswith(b"version https://git-lfs"):
        raise DamagedModelError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull`")
    for container in CONTAINERS:
        if container.begins.match(head):
            return container.read(path)
    names = " nor a ".join(dict.fromkeys(container.name for container in CONTAINERS))
    raise DamagedModelError(f"{path} is neither a {names} file, or is damaged")


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file, from its header.

    Raises:
        TetherCacheError: if it cannot be read.
    """
    regular_file(path)
    with _opened(path) as (file, names):
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def check_number(tensors: int, path: Path) -> None:
    """Raise `WrongModelError` if a file has more tensors than any model."""
    if tensors > MOST_TENSORS:
        raise WrongModelError(f"{path} has {tensors} tensors, more than {MOST_TENSORS}")


def check_size(declared: int, path: Path) -> None:
    """Raise `DamagedModelError` if a file declares more bytes than it has."""
    if declared > (size := regular_file(path)):
        raise DamagedModelError(
            f"{path} is not to be believed: it declares {declared / 1e6:.1f} MB of tensors and has "
            f"{size / 1e6:.1f} MB"
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A safetensors file and the names of its tensors."""
    with reading(path, _CUT), safe_open(path, "pt") as file:
        names = list(file.keys())
        check_number(len(names), path)
        yield file, names


def _read_safetensors(path: Path) -> Contents:
    with _opened(path) as (file, names):
        tensors = {name: file.get_tensor(name) for name in names}
        carried = file.metadata() or {}
    layouts = _parsed(carried.get("_quantization_metadata")).get("layers", {})
    return Contents(
        tensors, _parsed(carried.get("config")), layouts if isinstance(layouts, dict) else {}
    )


def _parsed(text: str | None) -> dict[str, Any]:
    """An object of JSON, or an empty one for anything else."""
    try:
        parsed = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _read_archive(path: Path) -> Contents:
    """Look at what a zip archive says of itself before anything in it is read; then read it."""
    with reading(path, _CUT), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()  # at the end of the file, so that a cut off one has none
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsafeModelError(
            f"{path} is a TorchScript program, not a state dict; it was not loaded. {_WAY_OUT}"
        )
    check_size(sum(entry.file_size for entry in entries), path)  # PyTorch compresses nothing
    return _read_pickle(path, mmap=True)


def _read_pickle(path: Path, *, mmap: bool = False) -> Contents:
    try:
        with reading(path, _CUT):
            return Contents(torch.load(path, map_location="cpu", mmap=mmap, weights_only=True))
    except DamagedModelError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error.__cause__)):
            raise UnsafeModelError(
                f"{path} holds something other than tensors ({named[1]}), which would run code; "
                f"it was not loaded and nothing was executed. {_WAY_OUT}"
            ) from None
        raise


def _read_gguf(path: Path) -> Contents:
    tensors, declared = read_gguf(path)
    check_number(len(tensors), path)
    check_size(declared, path)
    return Contents(tensors)


CONTAINERS = (
    # first, as the length of the header that comes before the brace may look like any of the others
    Container("safetensors", re.compile(rb".{8}\{", re.DOTALL), _read_safetensors),
    Container("GGUF", re.compile(rb"GGUF"), _read_gguf),
    Container("PyTorch", re.compile(rb"PK"), _read_archive),
    Container("PyTorch", re.compile(rb"\x80"), _read_pickle),  # before version 1.6
)
