"""Names of every sort, and what may have them: files, folders, links, pipes, devices."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz import mutate
from fuzz.kind import Kind
from tethercache.evaluation.inputs import find_inputs
from tethercache.evaluation.options import Options
from tethercache.evaluation.report import prepare_folder
from tethercache.evaluation.stored import measure_all
from tethercache.models import fetch, find
from tethercache.models.checkpoints.lora import read_lora
from tethercache.models.checkpoints.read import read_checkpoint
from tethercache.prompts import read_prompts
from tethercache.render.batch import check_folder, name_videos
from tethercache.render.prefix import read_prefix
from tethercache.render.recording import check_recording, unnamed
from tethercache.request import Lora, VideoRequest
from tethercache.video import VideoWriter, probe, read_sidecar

_SUFFIXES = ("", ".mp4", ".json", ".pt", ".safetensors", ".partial.mp4", ".txt", ".MP4", ".mp4.")
_NAMES = (
    "a", "a b", " a", "a ", "-", "--help", "~", ".", "..", ".a", "a/b", "./a", "../a", "a//b", "a/",
    "/", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/proc/self/fd/0", "con", "NUL",
    "a:b", "c:\\a", "file:a", "http://127.0.0.1:9/a", "concat:a|b", "pipe:0", "a%d", "%03d", "%s",
    "a*", "[a]", "$(touch EXECUTED)", "`id`", ";id", "'", '"', "\\", "a\nb", "a\tb", "\x1b[2J",
    "\x7f", "\x80", "\udc80", "\udcff\udcfe", "é", "e\u0301", "日本", "\u202e", "\u2028",
    "a" * 243, "a" * 255, "a" * 256, "é" * 127, "a/" * 2000, "owner/name", "owner/name/a",
    "tiny", "a:1", "a:nan", "a:1e400",
)  # fmt: skip
_IMPOSSIBLE = ("\0", "\ud800")  # what no command line can hold, but a Python string
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/proc/self/fd/0")
_WRITING = ("output", "batch", "report")
_THERE = (
    "nothing",
    "file",
    "empty",
    "folder",
    "full",
    "link",
    "broken",
    "loop",
    "pipe",
    "socket",
)


class Names(Kind):
    """Names in every place that takes one."""

    name = "names"
    share = 4

    def make(self, rng: Random) -> bytes:
        """A name, what has it, and where it is given: a JSON list."""
        name = rng.choice((*_NAMES, *_IMPOSSIBLE))
        if rng.random() < 0.3:
            name += rng.choice((*_NAMES, *_IMPOSSIBLE))
        if rng.random() < 0.1:
            name += mutate.character(rng)
        name += rng.choice(_SUFFIXES)
        there, place = rng.choice(_THERE), rng.choice(list(_PLACES))
        if place in _WRITING and name not in _DEVICES:  # who names another folder means it
            name = name.lstrip("/")
        if (there, place) == ("pipe", "prompts"):  # who gives a pipe of prompts wants to wait
            there = "file"
        return json.dumps([name, there, place]).encode()

    def take(self, content: bytes) -> None:
        """Give the name there."""
        name, kind, place = json.loads(content)
        shutil.rmtree("inside", ignore_errors=True)
        os.mkdir("inside")
        os.chdir("inside")
        try:
            _put(name, kind)
            _PLACES[place](name)
        finally:
            os.chdir("..")


def _put(name: str, kind: str) -> None:
    """Put something under a name, where the system allows it."""
    try:
        if kind == "nothing" or os.path.lexists(name) or os.path.isabs(name) or ".." in name:
            return
        if kind in ("file", "empty"):
            Path(name).write_bytes(b"a file\n" if kind == "file" else b"")
        elif kind in ("folder", "full"):
            os.mkdir(name)
            if kind == "full":
                Path(name, "a.txt").write_text("a")
        elif kind in ("link", "broken", "loop"):
            Path("target").write_text("a")
            os.symlink({"link": "target", "broken": "none", "loop": name}[kind], name)
        elif kind == "pipe":
            os.mkfifo(name)
        else:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
    except (OSError, ValueError):
        return


def _write(name: str) -> None:
    for job in name_videos(VideoRequest("a"), ["a"], 1, Path(name)):
        check_recording(job.path)
        unnamed(job.path)
        VideoWriter(job.path, width=16, height=16, fps=16).abandon()


def _measure(name: str) -> None:
    for outcome in measure_all(find_inputs([Path(name)]), Options()):
        assert outcome.result.name


_PLACES: dict[str, Callable[[str], object]] = {
    "model": lambda name: fetch(find(name)),
    "weights": lambda name: fetch(find("self-forcing"), Path(name)),
    "checkpoint": read_checkpoint,
    "adapter": read_lora,
    "adapters": Lora.parse,
    "request": lambda name: VideoRequest("a", model=name, prefix=name, weights_dir=name),
    "prompts": lambda name: read_prompts(Path(name)),
    "prefix": lambda name: read_prefix(Path(name)),
    "record": read_sidecar,
    "probe": probe,
    "output": _write,
    "batch": lambda name: check_folder(Path(name)),
    "eval": _measure,
    "report": lambda name: prepare_folder(Path(name)),
}
