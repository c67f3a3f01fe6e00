"""Whole command lines: an exit status that is documented, one line about an error, no traceback."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from pathlib import Path
from random import Random

from fuzz.guard import MARK, MOST_MEMORY
from fuzz.kind import Kind
from fuzz.kinds.files import _NAMES
from fuzz.kinds.texts import NUMBERS
from tests.evaluation.scenes import write
from tests.toys import toy_pipeline
from tethercache import cli

_SPECS = ("tethercache", "fifo", "sink", "window:memory=3", "tethercache:memory=1e3", "x", "", ":")
_VALUES: dict[str, tuple[str, ...]] = {
    "number": NUMBERS,
    "name": (*_NAMES, "a.mp4", "out", "b.txt", "model", "model.pt"),
    "spec": _SPECS,
    "word": ("auto", "on", "off", "cpu", "cuda", "meta", "float32", "float64", "json", "md", "vae"),
}
_OPTIONS: dict[str, dict[str, str]] = {
    "generate": {
        "--seconds": "number",
        "--latent-frames": "number",
        "--policy": "spec",
        "--model": "name",
        "--weights-dir": "name",
        "--lora": "name",
        "--prefix": "name",
        "--prompts": "name",
        "--seed": "number",
        "--num-samples": "number",
        "--device": "word",
        "--dtype": "word",
        "--vram": "number",
        "--attention": "word",
        "--overlap": "word",
        "--decoder": "word",
        "--threads": "number",
        "--crf": "number",
        "--vae-dtype": "word",
    },
    "eval": {
        "--baseline": "name",
        "--every": "number",
        "--limit": "number",
        "--jobs": "number",
        "--chunk": "number",
        "--first-chunk": "number",
        "--image-fps": "number",
        "--suite": "word",
        "--weights-dir": "name",
        "--fail-on": "spec",
        "--format": "word",
    },
    "bench": {"--policy": "spec", "--model": "name", "--device": "word", "--chunks": "number"},
    "policies": {"--format": "word", "--json": "word"},
    "doctor": {"--device": "word"},
}
_PLAIN: dict[str, list[str]] = {
    "generate": ["a red ball", "--seconds", "0.2", "--threads", "1", "-o", "a.mp4", "--overwrite"],
    "eval": ["b.mp4", "-o", "report"],
    "bench": ["--no-such-option"],
    "policies": [],
    "doctor": [],
}
_STRAY = (*_NAMES, "--json", "--overwrite", "-h", "--no", "--seed=1")
_ESCAPES = re.compile(r"\x1b(?!\[[0-9;?]*[a-zA-Z])")


class Commands(Kind):
    """Command lines, each in its own process: most in a copy of this one, some in a new one."""

    name = "commands"
    share = 0
    least, most, short = 300, 300, 2
    refusals = ()

    def prepare(self) -> None:
        """Put a video, prompts, a folder and a damaged checkpoint where names may find them."""
        write(Path("b.mp4"), seconds=1)
        Path("b.txt").write_text("a red ball\n# a comment\n")
        Path("model.pt").write_bytes(b"PK\3\4")
        toy_pipeline().save_pretrained("model")
        os.mkdir("out")

    def make(self, rng: Random) -> bytes:
        """A list of arguments in JSON; the first says whether the process is a new one."""
        how = "new" if rng.random() < 0.1 else "copy"
        if rng.random() < 0.15:
            return json.dumps([how, *self._models(rng)]).encode()
        command = rng.choice(("generate", "generate", "generate", *_OPTIONS))
        made = [command, *_PLAIN[command]]
        for _ in range(rng.randrange(4)):
            option, kind = rng.choice(list(_OPTIONS[command].items()))
            made += [option, rng.choice(_VALUES[kind])] if rng.random() < 0.9 else [option]
        for _ in range(rng.choice((0, 0, 1))):
            at = rng.randrange(len(made) + 1)
            made.insert(at, rng.choice(_STRAY))
        if rng.random() < 0.2 and len(made) > 1:
            del made[rng.randrange(1, len(made))]
        return json.dumps([how, *made]).encode()

    def _models(self, rng: Random) -> list[str]:
        names = _VALUES["name"]
        return rng.choice(
            (
                ["models", "list", "--weights-dir", rng.choice(names)],
                ["models", "show", rng.choice(names)],
                ["models", "convert", rng.choice(names), rng.choice(names)],
                ["models", rng.choice(names)],
                [rng.choice(names), rng.choice(names)],
            )
        )

    def take(self, content: bytes) -> str:
        """Run it."""
        how, *arguments = json.loads(content)
        arguments = [os.fsdecode(a.encode(errors="surrogateescape")) for a in arguments]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        status, most = _in_process(arguments, how == "new")
        assert most - before << 10 < MOST_MEMORY, f"took {most - before >> 10} MiB"
        said = Path("stderr").read_bytes().decode(errors="surrogateescape")
        assert status in (0, 1, 2), f"status {status}: {said[-300:]}"
        assert "Traceback" not in said, said[-2000:]
        assert "--debug for the traceback" not in said, said[-300:]
        assert _ESCAPES.search(said) is None, said[-300:]
        assert not os.path.lexists(MARK)
        assert said.strip() or not status, "nothing is said"
        return f"status {status}"


def _in_process(arguments: list[str], new: bool) -> tuple[int, int]:
    """The exit status of a command line and the most KiB it had; it writes `stdout`, `stderr`."""
    child = os.fork()
    if child:
        _, ended, used = os.wait4(child, 0)
        return os.waitstatus_to_exitcode(ended), used.ru_maxrss
    status = 99
    try:
        for descriptor, name in enumerate(("/dev/null", "stdout", "stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
        if new:
            os.execv(sys.executable, [sys.executable, "-m", "tethercache", *arguments])
        status = _copy(arguments)
    finally:
        os._exit(status)


def _copy(arguments: list[str]) -> int:
    with (
        os.fdopen(1, "w", errors="backslashreplace", closefd=False) as sys.stdout,
        os.fdopen(2, "w", errors="backslashreplace", closefd=False) as sys.stderr,
    ):
        try:
            cli.main(arguments)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 98
