"""What wrappers cost: the verdict, and that the page says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import wrappers

sys.path.pop(0)


@pytest.mark.parametrize(("cost", "status"), [(0.95, 0), (1.05, 1)])
def test_reading_less_must_not_cost_more(
    cost: float,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {"sink": 0.2, "sink + commit-read": 0.2 * cost, "sink + recency": 0.3}
    found = {spec: [(time, time / 4)] * 5 for spec, time in times.items()}
    monkeypatch.setattr(wrappers, "measure", lambda specs, rounds: {s: found[s] for s in specs})
    monkeypatch.setattr(sys, "argv", ["wrappers.py", *list(times)[1:], "--rounds", "5"])
    assert wrappers.main() == status
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["policy"] for row in rows] == list(times)
    assert len(table) == 1 + len(times)
    assert rows[1]["chunk_ratio"] == rows[1]["context_ratio"] == cost
    assert rows[2]["chunk_interval"] == [1.5, 1.5]


@pytest.mark.slow
def test_policies_and_a_trace_take_turns() -> None:
    command = [sys.executable, "benchmarks/wrappers.py", "fifo + commit-read", "fifo + trace"]
    done = subprocess.run(
        [*command, "--rounds", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["policy"] for row in rows] == ["fifo", "fifo + commit-read", "fifo + trace"]
    assert all(row["chunk_ms"] > row["context_ms"] > 0 for row in rows)


def test_the_page_says_what_was_measured() -> None:
    measured = (ROOT / "benchmarks/results/wrappers.txt").read_text().splitlines()[-1]
    page = (ROOT / "docs/performance.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for row in json.loads(measured)["rows"]:
        (line,) = [each for each in rows if each.startswith(f"| `{row['policy']}` |")]
        shown = [f"{row['chunk_ms']:.0f}", f"{row['context_ms']:.1f}"]
        for name in ("chunk", "context"):
            if f"{name}_ratio" in row:
                low, high = row[f"{name}_interval"]
                shown.append(f"{row[f'{name}_ratio']:.3f} [{low:.3f}, {high:.3f}]")
        assert all(f" {number} |" in line for number in shown)
    by_name = {row["policy"]: row for row in json.loads(measured)["rows"]}
    for base in ("tethercache", "sink"):
        assert by_name[f"{base} + commit-read"]["chunk_interval"][0] <= 1
