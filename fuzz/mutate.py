"""Damage to bytes, texts and documents, mostly where it hurts."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (0, -1, 1, 2, 3, 7, 127, 255, 256, 1 << 15, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 63)
SCRIPT = '"><script>alert(1)</script>'
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    *NUMBERS,
    10**30,
    10**400,
    -(10**9),
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "0",
    "1e9",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "\0",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "\n",
    "é" * 300,
    SCRIPT,
    "=1+1",
    "{{ ''.__class__ }}",
    "trust_remote_code",
    [],
    [1],
    [None],
    [[]],
    ["a"] * 100,
    [0] * 5000,
    {},
    {"a": 1},
    {"": []},
)
PIECES = (
    b"",
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\n",
    b"{",
    b'"',
    b"\xef\xbb\xbf",
)


def damaged(content: bytes, rng: Random, within: int = 4000) -> bytes:
    """A few bytes replaced, taken out or put in, mostly near the start; or an end cut off."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(max(1, min(len(made), within) if rng.random() < 0.8 else len(made)))
        gone = rng.randrange(5)
        kind = rng.random()
        if kind < 0.3:
            made[at : at + gone] = rng.randbytes(gone)
        elif kind < 0.5:
            made[at : at + rng.choice((0, gone))] = rng.choice(PIECES)
        elif kind < 0.7 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind < 0.85:
            size, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(NUMBERS) % (1 << 8 * size)
            made[at : at + size] = number.to_bytes(size, order)
        else:
            length, source = rng.randrange(64), rng.randrange(max(1, len(made)))
            made[at : at + rng.choice((0, length))] = made[source : source + length]
    if rng.random() < 0.1:
        del made[rng.randrange(len(made) + 1) :]
    return bytes(made)


def changed(document: Any, rng: Random) -> Any:
    """A document with one to three places replaced, taken out, renamed or doubled."""
    made = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        made = _change_one(made, rng)
    return made


def _change_one(document: Any, rng: Random) -> Any:
    owner, key = None, None
    place = document
    while _inside(place) and rng.random() < 0.85:
        owner, key = place, rng.choice(_inside(place))
        place = place[key]
    if owner is None:
        return _new(rng) if rng.random() < 0.05 else document
    kind = rng.random()
    if kind < 0.6:
        owner[key] = _new(rng)
    elif kind < 0.7:
        owner[key] = _near(place, rng)
    elif kind < 0.85:
        del owner[key]
    elif isinstance(owner, dict):
        owner[str(rng.choice(VALUES))] = place
    else:
        owner.insert(key, place)
    return document


def _new(rng: Random) -> Any:
    """One of `VALUES`, which a later change leaves as it is."""
    return copy.deepcopy(rng.choice(VALUES))


def _inside(place: Any) -> Sequence[Any]:
    if isinstance(place, dict):
        return list(place)
    return range(len(place)) if isinstance(place, list) else ()


def _near(value: Any, rng: Random) -> Any:
    """A value that might pass for the right one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        real = float(str(value))  # infinite, if it is too large
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, real))
    if isinstance(value, str):
        return rng.choice((value + value, value[:-1], value.upper(), value + "\n", [value]))
    return [value]


def written(document: Any, rng: Random) -> bytes:
    """A document as JSON, now and then broken or strangely spelled."""
    text = json.dumps(document)
    kind = rng.random()
    if kind < 0.03:
        depth = rng.choice((10, 1000, 100_000))
        return rng.choice((b"[", b'{"a":')) * depth + text.encode()
    if kind < 0.06:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32-le")))
    if kind < 0.09:
        return json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    return damaged(text.encode(), rng) if kind < 0.2 else text.encode()


def text(rng: Random, words: Sequence[str], most: int = 12) -> str:
    """Words of a grammar in a row, with other characters among them."""
    made = []
    for _ in range(rng.randrange(most)):
        if rng.random() < 0.9:
            made.append(rng.choice(words))
        else:
            made.append(character(rng) * rng.choice((1, 1, 1, 3, 300)))
    return "".join(made)


def character(rng: Random) -> str:
    """Any character, the strange ones most often."""
    ranges = ((0, 0x20), (0x20, 0x7F), (0x7F, 0x2FF), (0x2000, 0x2070), (0xD800, 0xE000))
    least, beyond = rng.choice((*ranges, (0xFEFF, 0xFF00), (0, 0x110000)))
    return chr(rng.randrange(least, beyond))


def encoded(value: str) -> bytes:
    """A text as an input, whatever is in it."""
    return value.encode(errors="surrogatepass")


def decoded(content: bytes) -> str:
    """The text of an input."""
    return content.decode(errors="surrogatepass")
