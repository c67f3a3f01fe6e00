"""A render gives out traces chunk by chunk, whatever becomes of it on the way."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tethercache as tc
from tethercache.render import Render, check, load, prepare
from tethercache.render.loading import Loaded

PROMPT = "a red ball rolling over grass"
CHUNKS = 12


@pytest.fixture(scope="module", params=["on", pytest.param("off", marks=pytest.mark.slow)])
def loaded(model: Path, request: pytest.FixtureRequest) -> Loaded:
    asked = tc.VideoRequest(
        PROMPT,
        latent_frames=3 * CHUNKS,
        model=str(model),
        policy="tethercache:sink=1,memory=4,recent=4",
        device="cpu",
        overlap=request.param,
        trace=True,
    )
    return load(prepare(check(asked)), [PROMPT])


def begin(loaded: Loaded) -> Render:
    return loaded.render(loaded.order.request)


def traces(render: Render) -> list[Any]:
    return [render.take_trace() for _ in render]


def test_every_chunk_has_its_trace(loaded: Loaded) -> None:
    with closing(begin(loaded)) as render:
        found = traces(render)
    assert [chunk["chunk"] for chunk in found] == [*range(CHUNKS)]
    assert found[-1]["layers"][0]["decisions"]
    assert all(one["kept"] == one["seen"] for chunk in found[:3] for one in chunk["layers"])


def test_going_back_and_on_leaves_the_trace_as_it_was(loaded: Loaded) -> None:
    with closing(begin(loaded)) as plain:
        whole = traces(plain)
    with closing(begin(loaded)) as render:
        render.remember = lambda chunks: chunks == 4
        for _ in range(7):
            next(render)
        back = render.rewind(float(render.plan.chunks[5].start * 4 - 3) / 16)
        assert back < 7
        assert traces(render) == whole[5:]
        with closing(render.branch()) as branch:
            assert traces(branch) == whole[4:]


def test_a_state_without_a_trace_does_not_become_half_of_one(loaded: Loaded) -> None:
    request = loaded.order.request
    untraced = replace(loaded, order=replace(loaded.order, request=replace(request, trace=False)))
    with closing(begin(untraced)) as render:
        render.wanted = lambda chunks: True
        next(render)
        assert render.take_trace() is None
        state = render.take_state()
    assert state is not None
    with closing(begin(loaded)) as other, pytest.raises(ValueError, match="that was not"):
        other.restore(state)
