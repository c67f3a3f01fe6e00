"""A video in the making as an object: steered, turned back, branched, in Python."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tethercache as tc
from tethercache.render import Render, check, load, prepare
from tethercache.render.loading import Loaded

PROMPT, OTHER = "a red ball rolling over grass", "a blue ball over sand"
CHUNKS = 12


@pytest.fixture(scope="module", params=["on", "off"])
def loaded(model: Path, request: pytest.FixtureRequest) -> Loaded:
    asked = tc.VideoRequest(
        PROMPT,
        latent_frames=3 * CHUNKS,
        model=str(model),
        seed=3,
        device="cpu",
        overlap=request.param,
    )
    return load(prepare(check(asked)), [PROMPT, OTHER])


def begin(loaded: Loaded) -> Render:
    return loaded.render(loaded.order.request)


def rest(render: Render) -> Tensor:
    return torch.cat(list(render))


def test_a_change_on_the_way_is_in_the_request_which_makes_the_same_again(loaded: Loaded) -> None:
    with closing(begin(loaded)) as render:
        made = [next(render) for _ in range(4)]
        at = render.switch(OTHER, "recache")
        render.pin(0, 1)
        made.append(rest(render))
        request = render.request
    frames = torch.cat(made)
    assert [change.text for change in request.then] == [OTHER, None]
    with closing(begin(loaded)) as plain:
        untouched = rest(plain)
    assert torch.equal(frames[:at], untouched[:at])
    assert not torch.equal(frames[at : at + 12], untouched[at : at + 12])
    with closing(loaded.render(request)) as again:
        assert torch.equal(rest(again), frames)


@pytest.mark.parametrize("remember", [lambda chunks: False, lambda chunks: chunks % 2 == 0])
def test_going_back_and_on_equals_a_run_that_never_went_there(loaded: Loaded, remember) -> None:  # type: ignore[no-untyped-def]
    with closing(begin(loaded)) as plain:
        whole = rest(plain)
    with closing(begin(loaded)) as render:
        render.remember = remember
        for _ in range(7):
            next(render)
        render.switch(OTHER)
        next(render)
        assert render.rewind(3.0) == 45 / 16
        assert render.request.then == ()
        assert torch.equal(rest(render), whole[45:])
        assert render.rewind(0.0) == 0.0
        assert torch.equal(rest(render), whole)
        with pytest.raises(ValueError, match="in the video so far"):
            render.rewind(1e6)


def test_a_branch_goes_its_own_way(loaded: Loaded) -> None:
    with closing(begin(loaded)) as render:
        render.remember = lambda chunks: chunks == 4
        made = [next(render) for _ in range(6)]
        with closing(render.branch()) as same, closing(render.branch()) as other:
            assert same.frames_made == other.frames_made == 45
            other.switch(OTHER, "cut")
            ours, theirs = rest(same), rest(other)
        whole = torch.cat([*made, rest(render)])
    assert torch.equal(ours, whole[45:])
    assert not torch.equal(theirs[-12:], whole[-12:])


def test_what_cannot_be_is_refused_by_name(loaded: Loaded) -> None:
    with closing(begin(loaded)) as render:
        with pytest.raises(ValueError, match="chunks before it"):
            render.switch(OTHER)
        next(render)
        with pytest.raises(ValueError, match="'something else' was not encoded"):
            render.switch("something else")
        with pytest.raises(ValueError, match="`how`"):
            render.switch(OTHER, "hard")
        rest(render)
        with pytest.raises(ValueError, match="behind it"):
            render.switch(OTHER)
