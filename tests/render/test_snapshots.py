from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tethercache.files import DiskFullError
from tethercache.render import snapshots as module
from tethercache.render.snapshots import DamagedSnapshotError, Snapshot, Snapshots

ABOUT = {"record": {"seed": 7}, "segment": None}


def state(number: float = 1.0) -> dict[str, Any]:
    return {
        "text": "a ball",
        "numbers": [1, 2.5, None, True],
        "layers": [{"frames": torch.full((2, 3), number)}, {}],
        "shape": torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
    }


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "video.resume")


def chunks(snapshots: Snapshots) -> list[int]:
    return [found.chunk for found in snapshots.whole()]


def test_a_state_comes_back_as_it_was(snapshots: Snapshots) -> None:
    snapshots.write(45, state(), ABOUT)
    (found,) = snapshots
    assert isinstance(found, Snapshot)
    assert (found.chunk, found.about) == (45, ABOUT)
    assert same(found.load(), state())
    names = {path.name for path in snapshots.folder.iterdir()}
    assert names == {"00000045.json", "00000045.safetensors"}
    assert found.size == sum(path.stat().st_size for path in snapshots.folder.iterdir())


def test_the_newest_stay(snapshots: Snapshots) -> None:
    for chunk in (3, 6, 9, 12):
        snapshots.write(chunk, state(chunk), ABOUT)
        assert len(list(snapshots.folder.iterdir())) <= 4
    assert chunks(snapshots) == [12, 9]
    assert same(snapshots.whole()[1].load(), state(9))


def test_older_ones_stay_spread_over_the_video_within_the_budget(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "all", keep=100)
    snapshots.write(3, state(), ABOUT)
    size = snapshots.whole()[0].size
    few = Snapshots(tmp_path / "video.resume", keep=2, budget=int(4.5 * size))
    for chunk in range(3, 99, 3):
        few.write(chunk, state(), ABOUT)
    kept = chunks(few)
    assert kept[:2] == [96, 93]
    assert len(kept) == 6
    gaps = [later - earlier for later, earlier in zip(kept[1:], [*kept[2:], 0], strict=True)]
    assert max(gaps) <= 2 * 96 / 5
    few.finish()
    assert 3 <= len(chunks(few)) <= 4
    Snapshots(few.folder, budget=0).finish()
    assert not few.folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_text(path.read_text().replace("45", "46", 1)),
        lambda path: path.write_text(path.read_text().replace('"format": 1', '"format": 2')),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text('{"format": 1, "body": {}}'),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
    ],
)
def test_a_damaged_manifest_is_told_and_the_one_before_is_found(
    snapshots: Snapshots, damage: Any
) -> None:
    for chunk in (42, 45):
        snapshots.write(chunk, state(), ABOUT)
    damage(snapshots.folder / "00000045.json")
    newest, before = snapshots
    assert isinstance(newest, DamagedSnapshotError)
    assert "00000045.json" in str(newest)
    assert isinstance(before, Snapshot)
    assert before.chunk == 42


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_damaged_data_is_told(snapshots: Snapshots, damage: Any) -> None:
    snapshots.write(45, state(), ABOUT)
    damage(snapshots.folder / "00000045.safetensors")
    (found,) = snapshots.whole()
    with pytest.raises(DamagedSnapshotError, match=r"00000045\.safetensors"):
        found.load()


def test_a_snapshot_that_cannot_be_written_leaves_the_ones_before(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots.write(42, state(), ABOUT)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("_save", "replacing"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(DiskFullError):
                snapshots.write(45, state(), ABOUT)
        assert chunks(snapshots) == [42]
        assert same(snapshots.whole()[0].load(), state())
        assert not list(snapshots.folder.glob(".*"))
    snapshots.write(45, state(2), ABOUT)
    assert same(snapshots.whole()[0].load(), state(2))


def test_the_system_error_of_a_full_disk_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as error:
        module._save({"a": torch.zeros(3)}, tmp_path / "missing" / "x.safetensors")
    assert error.value.errno == errno.ENOENT


def test_no_folder_where_snapshots_go(tmp_path: Path) -> None:
    (tmp_path / "video.resume").write_text("mine")
    with pytest.raises(FileExistsError, match="snapshots go there"):
        Snapshots(tmp_path / "video.resume").write(3, state(), ABOUT)
    assert (tmp_path / "video.resume").read_text() == "mine"


def test_a_branch_shares_the_data(snapshots: Snapshots, tmp_path: Path) -> None:
    snapshots.write(45, state(), ABOUT)
    other = Snapshots(tmp_path / "branch.resume")
    other.adopt(snapshots.whole()[0], {"record": {"seed": 8}}, {"text": "a cube"})
    (found,) = other.whole()
    assert found.about == {"record": {"seed": 8}}
    assert same(found.load(), {**state(), "text": "a cube"})
    assert found.data_path.samefile(snapshots.whole()[0].data_path)
    snapshots.remove()
    assert same(found.load(), {**state(), "text": "a cube"})


def test_the_manifest_is_written_last_and_removed_first(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a process ends, what has a manifest is whole."""
    seen = []
    replace, unlink = Path.replace, Path.unlink

    def check() -> None:
        for path in snapshots.folder.glob("[0-9]*.json"):
            seen.append(json.loads(path.read_text())["body"]["chunk"])
            Snapshot.read(path).load()

    def checked_replace(self: Path, target: Path) -> Path:
        result = replace(self, target)
        check()
        return result

    def checked_unlink(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        check()

    monkeypatch.setattr(Path, "replace", checked_replace)
    monkeypatch.setattr(Path, "unlink", checked_unlink)
    for chunk in (3, 6, 6, 9, 12):
        snapshots.write(chunk, state(chunk), ABOUT)
    snapshots.remove()
    assert {3, 6, 9, 12} <= set(seen)
