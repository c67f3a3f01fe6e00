"""The memory of this machine that this process may use.

A container or a service may be held to less than the machine has: a control group that exceeds its
limit is killed, however much memory is free outside of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# of a group: its limit, what it uses, and the pages of files among that, which can be dropped
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)
_V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))


def host_memory(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Free and total memory in bytes, None where the system does not tell.

    On Linux, the limits of all control groups that this process is in count.

    Args:
        root: where `proc` and `sys` are.
    """
    machine = _numbers(root / "proc/meminfo")
    free, total = (
        [machine[key] * 1024] if key in machine else [] for key in ("MemAvailable", "MemTotal")
    )
    for limit, unused in _limits(root):
        total.append(limit)
        free.append(unused)
    return min(free, default=None), min(total, default=None)


def return_free_memory() -> None:
    """Give what is freed, but not returned yet, back to the system, where malloc is glibc's.

    What a thread frees stays in its part of the heap, and one small block at the end keeps all of
    it. A process that runs for hours grows by that, although it holds no more.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no library of this process
        return None


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and what is left of it, for every control group that has a limit."""
    for group, (limit_in, usage_in, droppable) in _groups(root):
        limit, usage = _number(group / limit_in), _number(group / usage_in)
        if limit is None or usage is None:  # "max", or not this controller
            continue
        pages = _numbers(group / "memory.stat")
        used = usage - sum(pages.get(key, 0) for key in droppable)
        yield limit, max(0, limit - max(0, used))


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, str]]]]:
    """The folders of the control groups that this process is in, and their parents'."""
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not controllers:
            paths["cgroup" if controllers else "cgroup2"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = (part.split() for part in line.partition(" - "))
        kind, options = filesystem[0], filesystem[-1].split(",")
        if kind not in paths or (kind == "cgroup" and "memory" not in options):
            continue
        top = root / mount[4].lstrip("/")
        # a container sees its own group as the top, whatever the path from outside is
        inside = Path(paths[kind])
        inside = inside.relative_to(mount[3]) if inside.is_relative_to(mount[3]) else Path()
        inside = Path(*(part for part in inside.parts if part not in ("/", "..")))
        for group in (inside, *inside.parents):
            yield top / group, _V2 if kind == "cgroup2" else _V1


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as `name: 12 kB` or `name 12`."""
    words = (line.replace(":", " ").split() for line in _lines(path))
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}
