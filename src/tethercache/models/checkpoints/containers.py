"""Files of tensors, recognised by how they begin; tensors are mapped, and nothing is executed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import safe_open

from tethercache.errors import DamagedModelError, UnsafeModelError, WrongModelError
from tethercache.foreign import reading, regular_file

MOST_TENSORS = 1 << 16
"""Of one file; the largest Wan has about a thousand."""

Contents: TypeAlias = tuple[object, dict[str, Any]]
"""What a file holds, tensors by their names or state dicts by theirs; and its own configuration."""

_CUT = "it is damaged or cut off"


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
        carried = (file.metadata() or {}).get("config", "{}")
    try:
        config = json.loads(carried)
    except (ValueError, RecursionError):
        config = {}
    return tensors, config if isinstance(config, dict) else {}


def _read_archive(path: Path) -> Contents:
    """Look at what a zip archive says of itself before anything in it is read; then read it."""
    with reading(path, _CUT), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()  # at the end of the file, so that a cut off one has none
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsafeModelError(
            f"{path} is a TorchScript program, not a state dict; it was not loaded"
        )
    check_size(sum(entry.file_size for entry in entries), path)  # PyTorch compresses nothing
    return _read_pickle(path, mmap=True)


def _read_pickle(path: Path, *, mmap: bool = False) -> Contents:
    try:
        with reading(path, _CUT):
            return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True), {}
    except DamagedModelError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error.__cause__)):
            raise UnsafeModelError(
                f"{path} holds something other than tensors ({named[1]}), which would run code; "
                "it was not loaded and nothing was executed"
            ) from None
        raise


CONTAINERS = (
    # first, as the length of the header that comes before the brace may look like any of the others
    Container("safetensors", re.compile(rb".{8}\{", re.DOTALL), _read_safetensors),
    Container("PyTorch", re.compile(rb"PK"), _read_archive),
    Container("PyTorch", re.compile(rb"\x80"), _read_pickle),  # before version 1.6
)
