"""Rules for what callers pass: names of files in every place that takes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tethercache.arguments import as_path, fits
from tethercache.evaluation.measure import measure_video
from tethercache.evaluation.report import prepare_folder
from tethercache.evaluation.vbench.results import read_results
from tethercache.models.checkpoints.convert import convert
from tethercache.prompts import read_prompts
from tethercache.render.batch import check_folder
from tethercache.render.recording import check_recording, unnamed
from tethercache.request import Lora, VideoRequest
from tethercache.video import VideoWriter, read_sidecar, sidecar_path

PLACES: list[tuple[str, Callable[[str], object]]] = [
    ("model", lambda name: VideoRequest("a", model=name)),
    ("weights_dir", lambda name: VideoRequest("a", weights_dir=name)),
    ("prefix", lambda name: VideoRequest("a", prefix=name)),
    ("file", Lora),
    ("file", lambda name: read_prompts(Path(name))),
    ("path", check_recording),
    ("path", unnamed),
    ("path", lambda name: VideoWriter(name, width=16, height=16, fps=16)),
    ("video", read_sidecar),
    ("video", sidecar_path),
    ("folder", lambda name: check_folder(Path(name))),
    ("folder", lambda name: prepare_folder(Path(name))),
    ("path", lambda name: measure_video(Path(name))),
    ("path", lambda name: read_results(Path(name))),
    ("target", lambda name: convert("nothing.pt", name)),
]


@pytest.mark.parametrize("name", ["a\0b.mp4", "a\ud800.mp4"], ids=["zero", "surrogate"])
@pytest.mark.parametrize(("argument", "place"), PLACES)
def test_a_name_that_no_file_can_have_is_refused_by_its_argument(
    argument: str, place: Callable[[str], object], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"`{argument}` \(.*\) must be a path, without U\+0000"):
        place(name)


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"]])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"`output` \(.*\) must be a path"):
        as_path("output", value)


@pytest.mark.parametrize("value", ["", "a b/é", os.fsdecode(b"W\xfcrfel"), Path("a")])
def test_a_path_is_as_it_was_given(value: str | Path) -> None:
    assert as_path("output", value) == Path(value)


@pytest.mark.parametrize(
    ("value", "hint", "does"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (10**400, float, False),
        (float("nan"), float, False),
        (float("inf"), float, False),
        ("1", float, False),
        (None, int | None, True),
        (None, int, False),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ([0.5, 1], list[float], True),
        (1, list[int], False),
        ({"a": [1]}, dict[str, list[int]], True),
        ({"a": [None]}, dict[str, list[int]], False),
        ("a", Literal["a", "b"], True),
        ([], Literal["a", "b"], False),
        ([], Any, True),
    ],
)
def test_a_value_of_json_has_a_type(value: object, hint: Any, does: bool) -> None:
    assert fits(value, hint) is does
