"""What people type: policy specs, conditions, other options with a grammar, files of prompts."""

from __future__ import annotations

import codecs
from pathlib import Path
from random import Random

from fuzz import mutate
from fuzz.kind import Kind
from tethercache.evaluation.metrics import METRICS
from tethercache.evaluation.options import Options
from tethercache.evaluation.suite import parse_conditions
from tethercache.models import Settings
from tethercache.policies import POLICIES
from tethercache.prompts import check_prompt, read_prompts
from tethercache.render.batch import name_videos
from tethercache.request import Lora, VideoRequest, plan_video

NUMBERS = (
    "0", "1", "2", "3", "6", "9", "12", "21", "22", "-1", "1e3", "1e400", "-0", "0.5", ".5",
    "1e+5", "nan", "inf", "-inf", "1_000", "0x10", "\uff19", "²", "1" * 30, "9" * 5000, "True",
)  # fmt: skip
SIGNS = (":", ",", "=", "+", " + ", " ", "::", ",,", "==", "\n", "\t", ";", "|", ">", "<", ">=")


class Specs(Kind):
    """Specs of policies, and the plan of a video with what they make."""

    name = "specs"
    share = 40
    refusals = (ValueError,)

    def prepare(self) -> None:
        """Collect the words of the grammar."""
        self._keys = {name: list(POLICIES.fields(name)) for name in POLICIES}
        keys = [key for some in self._keys.values() for key in some]
        self._words = (*self._keys, *keys, *keys, *NUMBERS, *SIGNS, *SIGNS)

    def make(self, rng: Random) -> bytes:
        """A spec by the grammar, or one out of its words."""
        if rng.random() < 0.2:
            return mutate.encoded(mutate.text(rng, self._words))
        made = " + ".join(self._one(rng) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        if rng.random() < 0.2:
            at = rng.randrange(len(made) + 1)
            made = made[:at] + rng.choice((*SIGNS, mutate.character(rng))) + made[at + 1 :]
        return mutate.encoded(made)

    def _one(self, rng: Random) -> str:
        name = rng.choice(list(self._keys))
        settings = []
        for _ in range(rng.randrange(4)):
            key = rng.choice(self._keys[name] or ["key"])
            settings.append(f"{key}={rng.choice(NUMBERS)}")
        return name + ":" * bool(settings) + ",".join(settings)

    def take(self, content: bytes) -> None:
        """Parse it, write it, and plan a video with it."""
        policy = POLICIES.parse(mutate.decoded(content))
        for full in (False, True):
            assert POLICIES.parse(POLICIES.spec(policy, full=full)) == policy
        plan_video(Settings(), policy, num_seconds=3)


class Values(Kind):
    """Values of options: conditions, specs of metrics, lengths, adapters."""

    name = "options"
    share = 10
    refusals = (ValueError, OSError, RuntimeError)

    def prepare(self) -> None:
        """Collect the words of the grammar."""
        fields = {key for name in METRICS for key in METRICS.fields(name)}
        words = ("verdict", "drifting", "watch", "stable", " or ", "a.safetensors", "auto")
        self._words = (*METRICS, *fields, *words, *NUMBERS, *SIGNS, *SIGNS)

    def make(self, rng: Random) -> bytes:
        """Which option, and its value."""
        which = rng.choice(("condition", "condition", "metric", "lora", "seconds"))
        if which == "condition" and rng.random() < 0.7:
            pairs = [
                f"{rng.choice(list(METRICS))}{rng.choice(SIGNS)}{rng.choice(NUMBERS)}"
                for _ in range(rng.choice((1, 2)))
            ]
            return mutate.encoded(f"{which} {', '.join(pairs)}")
        most = 2 if which == "seconds" else 8
        return mutate.encoded(f"{which} {mutate.text(rng, self._words, most)}")

    def take(self, content: bytes) -> None:
        """Parse it."""
        which, _, value = mutate.decoded(content).partition(" ")
        if which == "condition":
            assert parse_conditions(value, Options())
        elif which == "metric":
            METRICS.parse(value)
        elif which == "lora":
            Lora.parse(value)
        else:
            plan_video(Settings(), "tethercache", num_seconds=_number(value))


def _number(text: str) -> float:
    """What an option makes of its value before the project sees it."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text} is no number") from None


class Prompts(Kind):
    """Files of prompts, and the names of the videos of each."""

    name = "prompts"
    share = 20
    refusals = (ValueError,)
    _WORDS = (
        "a red ball", "rolling", " ", " ", "\n", "\r\n", "\r", "\u2028", "\x85", "\x0b", "\x0c",
        "\ufeff", "#", "# a comment", "\0", "\x1b[31m", "con", "NUL", "COM1.txt", "..", "/", "\\",
        "日本語", "e\u0301", "👩‍👩‍👧", "\u202e", "ﷺ" * 50, "\t", "a" * 500, "{}", "%s", "$(id)",
    )  # fmt: skip
    _ENCODINGS = (
        "utf-8",
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-32",
        "utf-16-be",
        "latin-1",
        "utf-7",
    )

    def make(self, rng: Random) -> bytes:
        """Lines in some encoding."""
        lines = mutate.text(rng, self._WORDS, 30)
        content = lines.encode(rng.choice(self._ENCODINGS), "backslashreplace")
        if rng.random() < 0.1:
            content = rng.choice((codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE)) + content
        return mutate.damaged(content, rng) if rng.random() < 0.3 else content

    def take(self, content: bytes) -> None:
        """Read it, and name a video for each prompt."""
        file = Path("prompts.txt")
        file.write_bytes(content)
        prompts = read_prompts(file)
        for prompt in prompts:
            assert check_prompt(prompt) == prompt
        jobs = name_videos(VideoRequest("a"), prompts, 2, Path("videos"))
        assert len({job.path for job in jobs}) == len(jobs)
        for job in jobs:
            assert job.path.parent == Path("videos")
            assert job.path.name.isascii()
            assert len(job.path.name) < 100
