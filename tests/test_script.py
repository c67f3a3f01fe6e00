"""Changes over time, as flags, files and JSON say them: what they mean, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tethercache.cli.script import Asked, read
from tethercache.policies import as_policy
from tethercache.policies.tethercache import TetherCache
from tethercache.rollout import Plan
from tethercache.rollout.plan import first_frame, latent_span
from tethercache.script import (
    Change,
    begins,
    changes_by_chunk,
    check_policies,
    in_order,
    read_script,
)

PLAN = Plan(15)  # chunks begin at frames 0, 9, 21, 33, 45


def asked(**given: Any) -> Asked:
    names = ("prompt", "prompts", "script", "then", "seconds", "latent_frames")
    return read(*(given.get(name) for name in names))


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("20: a blue cube", Change(20, "a blue cube")),
        (" 2.5  cut : a cube: blue\n", Change(2.5, "a cube: blue", "cut")),
        ("1:30 recache:a cube", Change(90, "a cube", "recache")),
        ("20:20 cubes", Change(20, "20 cubes")),
    ],
)
def test_a_flag_says_when_how_and_what(text: str, change: Change) -> None:
    assert Change.parse(text) == change
    assert Change.from_dict(change.to_dict()) == change


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a blue cube", "must have the form SECOND: TEXT"),
        ("-1: a cube", "must have the form"),
        ("nan: a cube", "must have the form"),
        ("0: a cube", r"`then` \(0: a cube\): `at` .* must be a positive number"),
        ("5:", "must not be empty"),
        ("5 fade: a cube", r"`how` \(fade\) must be soft, recache or cut"),
        ("9" * 9 + " cut:" + "a\x00", "control characters"),
        ("5: \udcff", "not text in UTF-8"),
    ],
)
def test_a_flag_that_says_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Change.parse(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": 1}, "a change must have a `text`, `seed`, `policy`, `pin` or `forget`"),
        ({"text": "a"}, "must have an `at`"),
        ({"at": True, "text": "a"}, r"`at` \(True\) must be a positive number"),
        ({"at": "1", "text": "a"}, r"`at` \('1'\)"),
        ({"at": 1e300, "text": "a"}, "`at`"),
        ({"at": 1, "text": ["a"]}, r"`text` \(\['a'\]\) must be a text"),
        ({"at": 1, "how": "cut"}, r"`how` \(cut\) needs a `text`"),
        ({"at": 1, "seed": 0.5}, "`seed`"),
        ({"at": 1, "policy": 3}, "`policy`"),
        ({"at": 1, "pin": 1}, r"`pin` \(1\) must be two seconds"),
        ({"at": 1, "pin": [0, 1, 2]}, "must be two seconds"),
        ({"at": 1, "forget": [0.5, 0.5]}, r"`forget` \(0.5 to 0.5 s\) must begin before it ends"),
        ({"at": 1, "forget": [0, 1.5]}, "end at or before 1 s"),
        ({"at": 1, "forget": [-1, 1]}, "`forget`"),
        ({"at": 1, "texts": "a"}, "no key `texts`; did you mean `text`"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Change.from_dict(given)


def test_changes_come_in_order_and_those_of_one_second_stay_in_theirs() -> None:
    late, first, second = Change(9, "a"), Change(1, "b"), Change(1, seed=3)
    assert in_order([late, first, second]) == (first, second, late)
    assert Change(1, policy=as_policy("fifo")).policy == "fifo:sink=0,window=21,positions=relative"


@pytest.mark.parametrize(
    ("at", "frame"), [(1 / 16, 9), (9 / 16, 9), (10 / 16, 21), (21 / 16, 21), (45 / 16, 45)]
)
def test_a_change_holds_from_the_first_chunk_that_begins_then_or_later(
    at: float, frame: int
) -> None:
    (entry,) = begins([Change(at, "a")], PLAN, 16)
    assert entry == {"at": at, "frame": frame, "text": "a", "how": "soft"}


def test_a_change_never_reaches_into_the_prefix_nor_behind_the_last_chunk() -> None:
    plan = Plan(15, prefix=6)
    assert list(changes_by_chunk([Change(0.1, "a"), Change(1, seed=1)], plan, 16)) == [2]
    with pytest.raises(ValueError, match=r"a change at 2\.9 s, but the last .* at 2\.8125 s"):
        changes_by_chunk([Change(2.9, "a")], plan, 16)
    with pytest.raises(ValueError, match="all of this video is its prefix"):
        changes_by_chunk([Change(0.1, "a")], Plan(6, prefix=6), 16)


@pytest.mark.parametrize("plan", [PLAN, Plan(14, first_chunk_size=1), Plan(20, 4, prefix=6)])
@pytest.mark.parametrize("fps", [16, 24, Fraction(30000, 1001)])
def test_seconds_and_chunks_agree_with_a_search_frame_by_frame(
    plan: Plan, fps: int | Fraction
) -> None:
    starts = [first_frame(chunk.start) for chunk in plan]
    frames = first_frame(plan[plan.num_chunks - 1].start + plan[plan.num_chunks - 1].frames)
    for frame in range(frames + 3):
        second = float(frame / fps)  # which rounds: the frame is meant all the same
        after = next((n for n, start in enumerate(starts) if start >= frame), plan.num_chunks)
        assert plan.at_or_after(second, fps) == after
        before = max(n for n, start in enumerate(starts) if start <= frame)
        assert plan.at_or_before(second, fps) == (before if frame < frames else plan.num_chunks)
        shown = [n for n in range(40) if first_frame(n) <= frame < first_frame(n + 1)]
        assert latent_span((second, float((frame + 1) / fps)), fps) == (shown[0], shown[0] + 1)


def test_a_policy_can_only_be_followed_by_one_of_the_same_sizes() -> None:
    policy = TetherCache()
    plan = Plan(60)
    fitting = ("tethercache:tau=0.9", "tethercache:alpha=0 + commit-read", "tethercache")
    check_policies([Change(n + 1, policy=spec) for n, spec in enumerate(fitting)], policy, plan)
    for spec, message in (
        ("fifo", "`sink_size` is 0, not 3"),
        ("tethercache:memory=11", "`budget` is 18, not 21"),
        ("tethercache:memory=12,recent=6", "`recent_size` is 6, not 4"),
        ("tethercache + commit-read:newest=2", "`newest`"),
        ("tethercash", "tethercache"),
    ):
        with pytest.raises(ValueError, match=message):
            check_policies([Change(1, policy=spec)], policy, plan)


def test_a_file_says_prompts_length_and_more(tmp_path: Path) -> None:
    file = tmp_path / "film.yaml"
    file.write_text(
        "seconds: 60\n"
        "prompts:\n"
        "  - {at: 0, text: a red ball}\n"
        "  - {at: 1:30, text: a blue cube, how: cut}\n"
        "  - at: 20\n"
        "    text: |\n"
        "      a green star\n"
        "      over water\n"
        "    pin: [0, 1.5]\n",
        "utf-16",
    )
    script = read_script(file)
    assert (script.prompt, script.seconds, script.latent_frames) == ("a red ball", 60, None)
    star = Change(20, "a green star\nover water", pin=(0, 1.5))
    assert script.then == (star, Change(90, "a blue cube", "cut"))
    assert asked(script=file) == Asked(["a red ball"], 60, None, script.then)
    with pytest.raises(ValueError, match="says how long the video is"):
        asked(script=file, seconds=3)


HEAD = "prompts:\n- {at: 0, text: a}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be an object with `prompts`"),
        ("- a ball", "must be an object with `prompts`"),
        ("prompts: a ball", "`prompts`.*must be a list of prompts over time"),
        ("prompts: []", r"`prompts\[0\]`"),
        ("prompts: [{at: 1, text: a}]", r"`prompts\[0\]` must be the prompt at 0"),
        ("prompts: [{at: 0, text: a, how: cut}]", r"`prompts\[0\]` must be the prompt at 0"),
        ("prompts: [{at: 0, text: [a]}]", r"`prompts\[0\]`.*must be a text"),
        (HEAD + "- {at: 1, txt: a}", r"`prompts\[1\]`: a change has no key `txt`; did you mean"),
        (HEAD + "- {at: 1, text: yes}", r"`prompts\[1\]`: `text` \(True\) must be a text"),
        (HEAD + "- {at: 2001-01-01, text: a}", r"`prompts\[1\]`: `at` .*must be a positive number"),
        (HEAD + "- {at: .nan, text: a}", r"`prompts\[1\]`: `at`"),
        (HEAD + "second: 3", "no key `second`; did you mean `seconds`"),
        (HEAD + "- {at: 1,\ttext: a}\n\tb: c", "line [0-9]: "),
        (HEAD + "- {at: 1, at: 2, text: a}", "line 3: a key is there twice"),
        (HEAD + "a: &a [x]\nb: [*a, *a]", "line 4: aliases are not allowed"),
        (HEAD + "- !!python/object/apply:os.system [ls]", "line 3: could not determine"),
        (HEAD + "- {at: 2001-99-01, text: a}", "month must be"),
        (HEAD + "- {at: 1, text: \x07}", r"character U\+0007 is not allowed"),
        ("[" * 100_000, "nested too deeply"),
        ("#" * (1 << 20) + "#", "must not be larger than 1 MiB"),
    ],
)
def test_a_file_that_says_something_else_is_one_clear_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "film.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_script(file)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(file))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of the three"),
        ({"prompt": "a", "script": Path("film.yaml")}, "one of the three"),
        ({"prompts": Path("p.txt"), "then": ["1: b"]}, "--then goes with a prompt"),
        ({"script": Path("p.yaml"), "then": ["1: b"]}, "--then goes with a prompt"),
        ({"script": Path("no such.yaml")}, "cannot read the script in no such.yaml"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(**given)
