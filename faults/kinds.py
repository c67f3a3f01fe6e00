"""The kinds of trials: what happens to a run, and what must come of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from faults.strike import Strike
from faults.trial import Finding, NotHereError, Trial, strike_at
from tethercache.render.snapshots import Snapshot, Snapshots, snapshot_folder
from tethercache.video.target import partial_path


@dataclass(frozen=True)
class Kind:
    """A kind of trials.

    Attributes:
        run: carries one out.
        kills: whether it kills; these share the number of kills that is asked for.
        share: how many of 100 kills, or how many trials if it does not kill.
        batch: whether its trials are batches.
    """

    run: Callable[[Trial], None]
    kills: bool = False
    share: int = 1
    batch: bool = False


def moment(trial: Trial) -> None:
    """Killed at any operation on a file."""
    trial.run(strike=strike_at(trial, "kill"))
    trial.resume()


def begin(trial: Trial) -> None:
    """Killed where the files are begun."""
    trial.run(strike=Strike("kill", trial.rng.randint(1, 8), part=trial.rng.random()))
    trial.resume()


def finish(trial: Trial) -> None:
    """Killed where the video is completed and gets its name."""
    last = len(trial.whole.operations)
    trial.run(strike=Strike("kill", trial.rng.randint(last - 24, last), part=trial.rng.random()))
    trial.resume()


def snapshot(trial: Trial) -> None:
    """Killed while a snapshot is written or an old one removed."""
    trial.run(strike=strike_at(trial, "kill", lambda name: ".resume" in name))
    trial.resume()


def rename(trial: Trial) -> None:
    """Killed before a file gets its name."""
    trial.run(strike=strike_at(trial, "kill", lambda name: name.startswith("rename")))
    trial.resume()


def after(trial: Trial) -> None:
    """Killed after a time, wherever that is."""
    trial.run(after=trial.rng.uniform(0.05, 1.0) * trial.whole.seconds)
    trial.resume()


def fresh(trial: Trial) -> None:
    """Started and gone on with as from a shell; killed after a time, at its start or later."""
    began = trial.run("--help", fresh=True).seconds
    most = began + 2 * trial.whole.seconds
    trial.run(after=trial.rng.uniform(0, most), fresh=True)
    trial.resume(fresh=True)


def power(trial: Trial) -> None:
    """The power fails: a part of what was not on the disk yet is lost."""
    trial.run(strike=strike_at(trial, "power", lambda name: name.startswith("fsync")))
    trial.resume(goes_on_at=_loadable(trial))


def again(trial: Trial) -> None:
    """A resume is killed, and the next one, too."""
    trial.run(strike=strike_at(trial, "kill"))
    for _ in range(2):
        at = trial.rng.randint(1, max(2, len(trial.whole.operations) // 2))
        trial.run("--resume", strike=Strike("kill", at, part=trial.rng.random()))
    trial.resume()


def going_on(trial: Trial) -> None:
    """A resume is killed where it begins to go on."""
    trial.run(strike=strike_at(trial, "kill"))
    strike = Strike("kill", trial.rng.randint(1, 9), part=trial.rng.random())
    trial.run("--resume", strike=strike)
    trial.resume()


def batch(trial: Trial) -> None:
    """Several videos: those that are made stay, one goes on, the others are begun."""
    trial.run(strike=strike_at(trial, "kill"))
    made = {path: path.stat().st_mtime_ns for path in (trial.folder / "batch").glob("*[!l].mp4")}
    trial.resume()
    if any(path.stat().st_mtime_ns != made[path] for path in made if _final(trial, path)):
        raise Finding("a finished video was made again")


def stopped(trial: Trial) -> None:
    """Ctrl-C or SIGTERM at any operation: one line, its status, nothing lost."""
    act, status = trial.rng.choice((("int", 130), ("term", 143)))
    ended = trial.run(strike=strike_at(trial, act, _not_copying))
    if ended.status != status:
        raise Finding(f"a signal ends it with {ended.status}")
    trial.resume()


def _not_copying(name: str) -> bool:
    """Where FFmpeg writes, no code of Python runs that a signal could interrupt."""
    return name != "write v.mp4.partial"


def stopped_after(trial: Trial) -> None:
    """Ctrl-C or SIGTERM after a time, to a command that a shell has started."""
    number, status = trial.rng.choice(((signal.SIGINT, 130), (signal.SIGTERM, 143)))
    run = trial.start(fresh=True)
    wait = trial.rng.uniform(0.0, 0.6)
    _wait_for(lambda: partial_path(trial.folder / "v.mp4").exists() or not _lives(run.pid))
    _sleep(wait * trial.whole.seconds)
    run.signal(number)
    ended = trial.ended(run)
    # when all is done, a signal has its plain effect again
    if ended.status != status and not (ended.status in (0, -number) and _all_there(trial)):
        raise Finding(f"{number.name} ends it with {ended.status}")
    trial.resume()


def full(trial: Trial) -> None:
    """The disk is full from any operation on."""
    _failing(trial, "ENOSPC")


def failing(trial: Trial) -> None:
    """The disk fails once, at any operation."""
    _failing(trial, "EIO", lasting=False)


def read_only(trial: Trial) -> None:
    """The file system becomes read-only at any operation."""
    _failing(trial, "EROFS")


def _failing(trial: Trial, act: str, *, lasting: bool = True) -> None:
    ended = trial.run(strike=strike_at(trial, act, lasting=lasting))
    if ended.status == 0 and not _all_there(trial):
        raise Finding(f"{act}, and it says that all is well: {ended.said[-500:]}")
    if ended.status < 0:
        raise Finding(f"{act} ends it by signal {-ended.status}")
    if ended.status > 0 and "v." not in ended.errors[0]:
        raise Finding(f"an error that names no file: {ended.errors[0]}")
    trial.tell(ended.errors[0] if ended.errors else "no error")
    trial.resume(goes_on_at=_loadable(trial))


def small_disk(trial: Trial) -> None:
    """A real file system that gets full."""
    with _mounted(trial.folder, "size=64m"):
        _mount(trial.folder, f"remount,size={trial.rng.randint(40, 400)}k")
        ended = trial.run()
        if ended.status < 0:
            raise Finding(f"a full disk ends it by signal {-ended.status}")
        trial.tell(ended.errors[0] if ended.errors else "no error")
        _mount(trial.folder, "remount,size=64m")
        trial.resume(goes_on_at=_loadable(trial))


def large_files(trial: Trial) -> None:
    """No file may have more than some bytes (`ulimit -f`)."""
    ended = trial.run(most=trial.rng.randint(2_000, 60_000))
    if ended.status < 0:
        raise Finding(f"a limit of files ends it by signal {-ended.status}")
    trial.tell(ended.errors[0] if ended.errors else "no error")
    trial.resume(goes_on_at=_loadable(trial))


def read_only_folder(trial: Trial) -> None:
    """Nothing may be written where an unfinished video is."""
    strike = strike_at(trial, "kill")
    if os.geteuid():
        trial.run(strike=strike)
        trial.folder.chmod(0o500)
        _refused(trial)
        trial.folder.chmod(0o700)
        trial.resume()
        return
    with _mounted(trial.folder, "size=64m"):
        trial.run(strike=strike)
        _mount(trial.folder, "remount,ro")
        _refused(trial)
        _mount(trial.folder, "remount,rw")
        trial.resume()


def _refused(trial: Trial) -> None:
    done = _all_there(trial)
    before = _contents(trial.folder)
    ended = trial.run("--resume")
    trial.tell(ended.errors[0] if ended.errors else "no error")
    if not done and ended.status not in (1, 2):
        raise Finding(f"a read-only folder ends it with {ended.status}: {ended.said}")
    if _contents(trial.folder) != before:
        raise Finding("something was changed")


def without_resume(trial: Trial) -> None:
    """The plain command refuses an unfinished video; nothing is lost by that."""
    trial.run(strike=strike_at(trial, "kill"))
    chunk, frames = trial.newest(), _frames(trial)
    made = _all_there(trial) or trial._all_made(trial.folder / "v.mp4")
    ended = trial.run()
    if frames and not made and (ended.status != 2 or "--resume" not in ended.said):
        raise Finding(f"an unfinished video is not refused: {ended.said}")
    if not ended.status:
        trial.check_complete()
    trial.resume(goes_on_at=chunk if ended.status else 0)


def damage(trial: Trial) -> None:
    """The newest snapshot is damaged: the one before it is taken, and that is said."""
    trial.run(strike=strike_at(trial, "kill", _late))
    path = trial.folder / "v.mp4"
    found = Snapshots(snapshot_folder(path)).whole()
    if path.exists() or trial._all_made(path) or not found:
        trial.resume()
        return
    name = trial.rng.choice(list(DAMAGES))
    DAMAGES[name](found[0], trial)
    trial.tell(f"damaged: {name}")
    ended = trial.resume(goes_on_at=found[1].chunk if found[1:] else 0)
    if "trying the one before" not in ended.said:
        raise Finding(f"the damage is not said: {ended.said}")


def _late(name: str) -> bool:
    return name.startswith("write v.partial")


def _cut(path: Path, trial: Trial) -> None:
    with path.open("r+b") as file:
        file.truncate(trial.rng.randrange(path.stat().st_size))


def _flip(path: Path, trial: Trial) -> None:
    content = bytearray(path.read_bytes())
    content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
    path.write_bytes(content)


def _other_format(found: Snapshot, trial: Trial) -> None:
    manifest = json.loads(found.path.read_text())
    found.path.write_text(json.dumps(manifest | {"format": 99}))


DAMAGES: dict[str, Callable[[Snapshot, Trial], None]] = {
    "manifest cut off": lambda found, trial: _cut(found.path, trial),
    "a bit of the manifest": lambda found, trial: _flip(found.path, trial),
    "data cut off": lambda found, trial: _cut(found.data_path, trial),
    "a bit of the data": lambda found, trial: _flip(found.data_path, trial),
    "no data": lambda found, trial: found.data_path.unlink(),
    "another format": _other_format,
}


def other_version(trial: Trial) -> None:
    """The snapshots are of other software: refused by name, accepted with --resume-anyway."""
    trial.run(strike=strike_at(trial, "kill", _late))
    chunk = trial.newest()
    if not chunk:
        trial.resume()
        return
    folder = snapshot_folder(trial.folder / "v.mp4")
    snapshots = Snapshots(folder)
    for found in snapshots.whole():
        about = json.loads(json.dumps(found.about))
        about["record"]["versions"]["torch"] = "1.0"
        body = {"chunk": found.chunk, "about": about, "data": found._data, "state": found._rest}
        snapshots._write_manifest(found.path, body)
    before = _contents(trial.folder)
    ended = trial.run("--resume")
    if ended.status != 1 or "torch 1.0" not in ended.said or "--resume-anyway" not in ended.said:
        raise Finding(f"another version is not named: {ended.said}")
    if _contents(trial.folder) != before:
        raise Finding("something was changed")
    trial.resume("--resume-anyway", goes_on_at=chunk)


def threads(trial: Trial) -> None:
    """Gone on with on another number of threads: refused by name, or accepted by hand."""
    trial.run(strike=strike_at(trial, "kill", _late))
    chunk = trial.newest()
    if not chunk:
        trial.resume()
        return
    before = _contents(trial.folder)
    ended = trial.run("--resume", "--threads", "2", "--overlap", "off")
    if ended.status != 1 or "threads 1, here 2" not in ended.said:
        raise Finding(f"the threads are not named: {ended.said}")
    if _contents(trial.folder) != before:
        raise Finding("something was changed")
    trial.resume(goes_on_at=chunk)


def writers(trial: Trial) -> None:
    """A second run tries to write the same video, wherever the first one is."""
    first = trial.start(strike=strike_at(trial, "stop"))
    if not first.stopped():
        trial.ended(first)
        return
    flags = trial.rng.choice((("--resume",), ("--overwrite",), ()))
    place = trial.notes / "second"
    place.mkdir()
    notes, trial.notes = trial.notes, place
    second = trial.run(*flags)
    trial.notes = notes
    trial.tell(second.errors[0] if second.errors else "the second one has made it")
    first.signal(signal.SIGCONT)
    ended = trial.ended(first)
    trial.tell(ended.errors[0] if ended.errors else "the first one has made it")
    if ended.status and second.status:
        raise Finding(f"neither has made it: {ended.said}{second.said}")
    trial.check_complete()


def clock(trial: Trial) -> None:
    """The time of day jumps by weeks, to and fro; the files are of the future, too."""
    half = strike_at(trial, "clock")
    trial.run(strike=half, after=trial.rng.uniform(0.3, 0.9) * trial.whole.seconds)
    for path in trial.folder.rglob("*"):
        when = trial.rng.choice((0, 4_000_000_000))
        os.utime(path, (when, when))
    chunk = trial.newest()
    trial.resume(goes_on_at=chunk, strike=replace(half, at=1))


KINDS: dict[str, Kind] = {
    "moment": Kind(moment, kills=True, share=22),
    "begin": Kind(begin, kills=True, share=8),
    "finish": Kind(finish, kills=True, share=12),
    "snapshot": Kind(snapshot, kills=True, share=12),
    "rename": Kind(rename, kills=True, share=8),
    "after": Kind(after, kills=True, share=10),
    "fresh": Kind(fresh, kills=True, share=6),
    "power": Kind(power, kills=True, share=8),
    "again": Kind(again, kills=True, share=12),
    "going on": Kind(going_on, kills=True, share=8),
    "batch": Kind(batch, kills=True, share=8, batch=True),
    "clock": Kind(clock, kills=True, share=4),
    "stopped": Kind(stopped, share=6),
    "stopped after": Kind(stopped_after, share=2),
    "full": Kind(full, share=8),
    "failing": Kind(failing, share=8),
    "read-only": Kind(read_only, share=5),
    "small disk": Kind(small_disk, share=4),
    "large files": Kind(large_files, share=4),
    "read-only folder": Kind(read_only_folder, share=3),
    "without resume": Kind(without_resume, share=3),
    "damage": Kind(damage, share=12),
    "other version": Kind(other_version, share=2),
    "threads": Kind(threads, share=2),
    "writers": Kind(writers, share=8),
}


def _loadable(trial: Trial) -> int | None:
    """The chunk of the newest snapshot that can be gone on with, as the files are now."""
    from tethercache.errors import TetherCacheError

    path = trial.folder / "v.mp4"
    if path.exists() or trial._all_made(path) or not partial_path(path).exists():
        return 0
    video = partial_path(path).read_bytes()
    for found in Snapshots(snapshot_folder(path)).whole():
        try:
            size = found.load()["recording"]["position"]["size"]
        except TetherCacheError:
            continue
        if size <= len(video):
            return found.chunk
    return 0


def _frames(trial: Trial) -> int:
    from tethercache.video.mp4 import count_frames

    path = partial_path(trial.folder / "v.mp4")
    try:
        with path.open("rb") as file:
            return count_frames(file)
    except (OSError, ValueError):
        return 0


def _all_there(trial: Trial) -> bool:
    return all((trial.folder / name).exists() for name in trial.video.names)


def _final(trial: Trial, path: Path) -> bool:
    return str(path.relative_to(trial.folder)) in trial.video.names


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def _sleep(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        _sleep(0.01)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own in a folder."""
    _mount(folder, options)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def _mount(folder: Path, options: str) -> None:
    if os.geteuid() or shutil.which("mount") is None:
        raise NotHereError("only root may mount")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotHereError(done.stderr.strip())
