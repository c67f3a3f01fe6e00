"""The files of a video under the rules of Windows: Unix-only names are gone, open files stay.

Windows itself is not at hand here. This takes away what its Python lacks, gives it a lock in the
place of its own, and refuses to delete or rename a file that is open, as Windows does.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

WINDOWS = """\
import fcntl, fractions, os, pathlib, sys, types
import av, numpy as np  # libraries are those of this system

for name in ("pread", "pwrite", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "mkfifo", "fork"):
    delattr(os, name)
os.O_BINARY = 0

def locking(fd, mode, count, lock=fcntl.flock, flags=fcntl.LOCK_EX | fcntl.LOCK_NB):
    assert (mode, count) == (2, 1)
    try:
        lock(fd, flags)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules["fcntl"] = None

def refuse_open(function):
    def call(*paths, **options):
        kept = {os.path.realpath(path) for path in paths}
        opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        if kept & opened:
            raise PermissionError(13, "The process cannot access the file", str(paths[0]))
        return function(*paths, **options)
    return call

for name in ("unlink", "remove", "rename", "replace"):
    setattr(os, name, refuse_open(getattr(os, name)))
sys.platform = "win32"

from tethercache.render import Recording, complete, unnamed
from tethercache.video import Sidecar, VideoWriter, read_frames, read_sidecar, writer

folder = pathlib.Path(sys.argv[1])
texts = dict.fromkeys(("prompt", "model", "model_hash", "policy", "dtype", "device"), "")
numbers = dict(seed=0, sample=0, width=48, height=32, num_frames=12, num_latent_frames=4)
request = Sidecar(**texts, **numbers, fps=fractions.Fraction(16), chunk_sizes=(2, 2))
frames = np.zeros((12, 32, 48, 3), np.uint8)

def names():
    return sorted(path.name for path in folder.iterdir())

def refused(error, action, *args, **options):
    try:
        action(*args, **options)
    except error as caught:
        return str(caught)
    raise AssertionError(action)

video = folder / "video.mp4"
with Recording(video, request) as made:
    made.write(frames[:5])
    assert len(list(read_frames(folder / "video.partial.mp4"))) == 5
    for overwrite in (False, True):
        message = refused(FileExistsError, Recording, video, request, overwrite=overwrite)
        assert "another run is writing" in message, message
    made.write(frames[5:])
assert names() == ["video.json", "video.mp4"], names()
assert len(list(read_frames(video))) == 12
assert read_sidecar(video) == made.record
refused(FileExistsError, Recording, video, request)
with Recording(video, request, overwrite=True) as again:
    again.write(frames[:4])
assert len(list(read_frames(video))) == 4
assert names() == ["video.json", "video.mp4"], names()
for path in folder.iterdir():
    path.unlink()

try:
    with Recording(video, request) as made:
        made.write(frames)
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
assert names() == ["video.partial.json", "video.partial.mp4"], names()
message = refused(FileExistsError, VideoWriter, video, fps=16, width=48, height=32)
assert "an unfinished video" in message, message

def full(*_):
    raise OSError(28, "No space left on device")

remux, writer.remux = writer.remux, full
made = Recording(video, request, overwrite=True)
made.write(frames)
assert "all frames are in this file" in refused(OSError, made.close)
writer.remux = remux
assert names() == ["video.partial.json", "video.partial.mp4"], names()
assert unnamed(video) == made.record
complete(video)
assert names() == ["video.json", "video.mp4"], names()
assert len(list(read_frames(video))) == 12

empty = Recording(folder / "empty.mp4", request)
refused(ValueError, empty.close)
assert names() == ["video.json", "video.mp4"], names()
"""


def test_a_video_is_written_kept_and_completed_with_what_windows_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
