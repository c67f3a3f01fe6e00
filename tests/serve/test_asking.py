"""What clients may ask for: every field of a request is given, refused by name, or decided."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tethercache.request import VideoRequest
from tethercache.serve import asking
from tethercache.serve.errors import ApiError
from tethercache.serve.options import Options


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(tmp_path)


def test_every_field_of_a_request_has_its_place() -> None:
    names = [field.name for field in dataclasses.fields(VideoRequest)]
    assert sorted((*asking.FIELDS, *asking.FILES, *asking.DECIDED)) == sorted(names)


@pytest.mark.parametrize("name", [*asking.FILES, "input_reference", *asking.DECIDED, "promt"])
def test_what_is_no_business_of_a_client_is_refused_by_name(name: str, options: Options) -> None:
    with pytest.raises(ApiError, match=name) as refused:
        asking.request_from({"prompt": "a red ball", name: "x"}, options)
    assert refused.value.status == 400


def test_a_form_has_texts_and_openai_has_seconds_as_text(options: Options) -> None:
    form = {"prompt": "a red ball", "seconds": "4", "seed": "7", "watch_drift": "true"}
    form["then"] = '[{"at": 2, "text": "a blue ball"}]'
    asked = asking.request_from(form, options, form=True)
    assert (asked.seconds, asked.seed, asked.watch_drift) == (4.0, 7, True)
    assert asked.then[0].text == "a blue ball"
    same = asking.request_from({"prompt": "a red ball", "seconds": "4", "size": "64x64"}, options)
    assert same.seconds == 4.0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": "a ball", "seconds": -1}, "seconds"),
        ({"prompt": "a ball", "seconds": 1e9}, "seconds"),
        ({"prompt": "a ball", "seconds": "soon"}, "seconds"),
        ({"prompt": "a ball", "size": "1280x720"}, "size"),
        ({"prompt": "a ball", "model": "/etc/passwd"}, "model"),
        ({"prompt": "a ball", "policy": "nothing"}, "policy"),
        ({"prompt": "a ball", "seed": "1"}, "seed"),
    ],
)
def test_wrong_values_are_refused_by_name(
    body: dict[str, object], param: str, options: Options
) -> None:
    with pytest.raises(ApiError) as refused:
        asking.request_from(body, options)
    assert (refused.value.status, refused.value.param) == (400, param)
