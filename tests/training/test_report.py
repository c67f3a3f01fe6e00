"""The report of long runs: partial or complete, its tables and its plot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import report
from training.readings import MEASURES


def write_batch(folder: Path, number: int, videos: list[int], adherence: float) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(number)
    np.savez(
        folder / f"{number:03d}.npz",
        videos=np.array(videos),
        adherence=np.full((len(videos), 20), adherence),
        identity=np.full((len(videos), 20), 1.0),
        speed=np.full((len(videos), 20), 9.0),
        features=rng.normal(size=(len(videos), 20, 8)).astype(np.float16),
    )


def test_a_report_is_partial_until_every_batch_of_every_policy_is_there(tmp_path: Path):
    rng = np.random.default_rng(9)
    truth = {key: np.full((2, 20), 1.0) for key in MEASURES}
    truth |= {f"vae {key}": 0.875 * value for key, value in truth.items()}
    truth |= {key: rng.normal(size=(2, 20, 8)) for key in ("features", "others", "vae features")}
    config: dict[str, Any] = {"prompts": 2, "seeds": 2, "seconds": 20, "window_seconds": 10}
    config |= {"policies": ["fifo", "tethercache"], "compare_with": ["fifo", "sink"]}
    (tmp_path / "made.json").write_text('{"weights": "0123"}')
    write_batch(tmp_path / "fifo", 0, [0, 1], 0.5)
    write_batch(tmp_path / "fifo", 1, [2, 3], 0.9)
    write_batch(tmp_path / "tethercache", 0, [0, 1], 0.8)
    # what another process is still writing
    (tmp_path / "tethercache" / "001.77.partial.npz").write_bytes(b"PK")
    partial = report.report(config, tmp_path, truth)
    assert partial["state"] == "partial"
    assert partial["made"] == {"weights": "0123"}
    assert partial["policies"]["fifo"]["videos"] == 4
    assert partial["policies"]["fifo"]["by_prompt"]["adherence"] == [0.5, 0.9]
    assert [row[0] for row in partial["policies"]["fifo"]["adherence"]] == [0.7, 0.7]
    assert partial["policies"]["fifo"]["speed"] == [[9.0, 9.0, 9.0]] * 2
    found = partial["differences"]["fifo"]["tethercache"]["adherence"]
    assert found == pytest.approx([0.3, 0.3, 0.3, 1, 0])
    write_batch(tmp_path / "tethercache", 1, [2, 3], 0.8)
    complete = report.report(config, tmp_path, truth)
    assert complete["state"] == "complete"
    row = "| adherence | tethercache | 0.80 [0.80, 0.80] | 0.80 [0.80, 0.80] | 0.88 | 1.00 |"
    assert row in report.table(complete)
    zeros = "| +0.000 [+0.000, +0.000] 0:0 " + "| +0.0 [+0.0, +0.0] 0:0 " * 2 + "|"
    row = f"| tethercache | +0.100 [-0.100, +0.300] 1:1 {zeros} +"
    assert row in report.differences_table(complete["differences"]["fifo"], "minus fifo")
    assert complete["policies"]["fifo"]["by_prompt"]["speed error"] == [8, 8]
    report.plot(complete, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[1:4] == b"PNG"
