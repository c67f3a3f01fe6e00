"""Damaged checkpoints and folders, many and by chance: an error of this project, or none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.checkpoints import made
from tests.toys import toy_pipeline
from tethercache.errors import TetherCacheError
from tethercache.models.checkpoints.load import load_transformer
from tethercache.pipeline import CausalVideoPipeline

VALUES = (
    None,
    True,
    0,
    -1,
    7,
    10**9,
    10**30,
    0.5,
    float("nan"),
    "",
    "a",
    "\0",
    [],
    [1],
    {},
    {"a": 1},
)


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """One value of a document replaced, or taken out."""
    document: Any = json.loads(content)
    owner, key = document, rng.choice(list(document))
    while isinstance(owner[key], dict) and owner[key] and rng.random() < 0.8:
        owner = owner[key]
        key = rng.choice(list(owner))
    if rng.random() < 0.8:
        owner[key] = rng.choice(VALUES)
    else:
        del owner[key]
    return json.dumps(document).encode()


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, taken out or put in, mostly near the start; or an end cut off."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(min(len(made), 4000))
        made[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(made[: rng.randrange(1, len(made))] if rng.random() < 0.1 else made)


def mutated_header(content: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = mutated_json(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def damaged(
    path: Path, mutate: Callable[[bytes, random.Random], bytes], number: int
) -> Iterator[int]:
    """Write `number` mutants of a file in its place, one after the other; then the file again."""
    content = path.read_bytes()
    for seed in range(number):
        path.write_bytes(mutate(content, random.Random(seed)))
        yield seed
    path.write_bytes(content)


def refused(load: Callable[[], object]) -> bool:
    """Whether an error of this project was raised; any other fails the test."""
    try:
        load()
    except TetherCacheError:
        return True
    return False


@pytest.mark.parametrize(
    ("make", "mutate"),
    [
        (made.comfy_file, mutated_header),
        (made.comfy_file, mutated_bytes),
        (made.self_forcing_dmd, mutated_bytes),
        (made.legacy_pickle, mutated_bytes),
    ],
)
def test_damaged_checkpoints(
    make: Callable[[Path], Path], mutate: Callable[[bytes, random.Random], bytes], tmp_path: Path
) -> None:
    path = make(tmp_path)
    assert sum(refused(lambda: load_transformer(path)) for _ in damaged(path, mutate, 40)) > 20


def test_damaged_folders(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path)

    def load() -> None:
        CausalVideoPipeline.from_pretrained(tmp_path).encode_prompt(["a red ball"])

    count = 0
    for path in sorted(tmp_path.rglob("*.json")):
        count += sum(refused(load) for _ in damaged(path, mutated_json, 2))
    assert count > 4
    assert not refused(load)
