"""The memory that may be used: of the machine, or less in a container of either kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tethercache.fit.host import host_memory

MIB = 1 << 20
MEMINFO = "MemTotal:       8192000 kB\nMemFree: 100 kB\nMemAvailable:   4096000 kB\nHugePages: 0\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime master:9 - cgroup cgroup rw,memory\n"
)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in ({"proc/meminfo": MEMINFO} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def v2(group: str, limit: str, current: int, files: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{current}\n",
        f"{folder}/memory.stat": f"anon 5\nactive_file {files // 2}\ninactive_file {files // 2}\n",
    }


def v1(group: str, limit: int, usage: int, files: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory/{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"cache 7\ntotal_active_file 0\ntotal_inactive_file {files}\n",
    }


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    assert host_memory(machine(tmp_path, {})) == (4096000 * 1024, 8192000 * 1024)


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == (None, None)


def test_a_limit_of_the_second_kind_counts_without_pages_of_files(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/box\n", "proc/self/mountinfo": V2}
    files |= v2("box", str(300 * MIB), 120 * MIB, files=20 * MIB)
    assert host_memory(machine(tmp_path, files)) == (200 * MIB, 300 * MIB)


def test_a_limit_of_a_group_further_up_counts(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/user/app/deep\n", "proc/self/mountinfo": V2}
    files |= v2("user", str(500 * MIB), 450 * MIB) | v2("user/app", "max", MIB)
    files |= v2("user/app/deep", str(400 * MIB), MIB)
    assert host_memory(machine(tmp_path, files)) == (50 * MIB, 400 * MIB)


@pytest.mark.parametrize(
    ("path", "top"), [("/docker/1f", "/docker/1f"), ("/elsewhere", "/docker/1f"), ("/", "/")]
)
def test_a_container_of_the_first_kind_sees_its_group_as_the_top(
    path: str, top: str, tmp_path: Path
) -> None:
    files = {"proc/self/cgroup": f"9:name=systemd:/\n4:cpu,memory:{path}\n0::/\n"}
    files |= {"proc/self/mountinfo": V1.format(top=top)}
    files |= v1("", 300 * MIB, 250 * MIB, files=50 * MIB)
    assert host_memory(machine(tmp_path, files)) == (100 * MIB, 300 * MIB)


def test_no_limit_is_written_as_a_huge_number(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": V1.format(top="/")}
    files |= v1("", 9223372036854771712, 900 * MIB)
    assert host_memory(machine(tmp_path, files)) == (4096000 * 1024, 8192000 * 1024)


def test_it_can_be_read_here() -> None:
    free, total = host_memory()
    assert free is None or total is None or 0 <= free <= total
