"""What can be made here, how much was made, and the session of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tethercache.models import fetch, find
from tethercache.policies import POLICIES
from tethercache.serve.asking import MOST_CHARACTERS, model_settings
from tethercache.serve.errors import ApiError, not_found
from tethercache.serve.options import Options
from tethercache.serve.security import cookie_name, same, session
from tethercache.serve.videos import Body, InShop
from tethercache.serve.views import thresholds

router = APIRouter()

EXAMPLES = (
    "a red ball rolling over grass",
    "a blue cube hovering over the lake at night",
    "a green star bouncing on the beach at sunset",
    "a yellow ring circling in front of a city",
)
"""Prompts for the shipped model."""


def model_object(name: str) -> dict[str, Any]:
    """A model, as JSON."""
    settings, policy = model_settings(name)
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "tethercache",
        "width": settings.width,
        "height": settings.height,
        "fps": settings.fps,
        "chunk_size": settings.chunk_size,
        "default_policy": policy.partition(":")[0],
        "words": _words(name),
    }


def _words(name: str) -> list[str]:
    """The words of a model that knows whole words only; of others none."""
    folder = fetch(find(name), None).pipeline / "tokenizer"
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        return []
    model = json.loads(path.read_text("utf-8")).get("model", {})
    if model.get("type") != "WordLevel":
        return []
    return sorted(word for word in model["vocab"] if not word.startswith("<"))


@router.get("/v1/models", tags=["models"])
def models(shop: InShop) -> dict[str, Any]:
    """What can be made."""
    return {"object": "list", "data": [model_object(name) for name in shop.options.models]}


@router.get("/v1/models/{name:path}", tags=["models"])
def model(name: str, shop: InShop) -> dict[str, Any]:
    """One model."""
    if name not in shop.options.models:
        raise not_found()
    return model_object(name)


@router.get("/v1/studio", tags=["server"])
def studio(shop: InShop) -> dict[str, Any]:
    """What the page has to know."""
    policies = [
        {
            "name": name,
            "summary": POLICIES[name].summary,
            "settings": ",".join(f"{k}={v}" for k, v in POLICIES.fields(name).items()),
        }
        for name in POLICIES
        if not POLICIES[name].wraps
    ]
    return {
        "models": [model_object(name) for name in shop.options.models],
        "policies": policies,
        "limits": {"seconds": shop.options.max_seconds, "prompt": MOST_CHARACTERS},
        "examples": list(EXAMPLES) if "tiny" in shop.options.models else [],
        "thresholds": thresholds(),
    }


@router.get("/metrics", tags=["server"])
def metrics(shop: InShop) -> PlainTextResponse:
    """Counters and gauges for Prometheus."""
    totals, counts = shop.workshop.totals, shop.desk.counts()
    lines = []

    def add(name: str, kind: str, about: str, *values: tuple[str, float]) -> None:
        lines.extend([f"# HELP tethercache_{name} {about}", f"# TYPE tethercache_{name} {kind}"])
        lines.extend(f"tethercache_{name}{labels} {value:g}" for labels, value in values)

    add("frames_total", "counter", "Frames made since the start.", ("", totals.frames))
    add("chunks_total", "counter", "Chunks made since the start.", ("", totals.chunks))
    add("making_seconds_total", "counter", "Seconds spent on chunks.", ("", totals.seconds))
    add("workers_total", "counter", "Worker processes started.", ("", totals.workers))
    ended = [(f'{{status="{word}"}}', float(n)) for word, n in sorted(totals.ended.items())]
    add("ended_total", "counter", "Videos that ended since the start.", *ended)
    there = [(f'{{status="{word}"}}', float(n)) for word, n in counts.items()]
    add("videos", "gauge", "Videos in the folder.", *there)
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def options_of(request: Request) -> Options:
    """The options of the server."""
    found: Options = request.app.state.options
    return found


Given = Annotated[Options, Depends(options_of)]


@router.post("/v1/session", tags=["server"])
def begin(body: Body, options: Given) -> Response:
    """Exchange the token for a cookie, which the page's requests then carry."""
    token = body[0].get("token")
    if options.token is None:
        return JSONResponse({"object": "session"})
    if not isinstance(token, str) or not same(token, options.token):
        raise ApiError(401, "that is not the token", "token")
    answer = JSONResponse({"object": "session"})
    answer.set_cookie(
        cookie_name(options), session(options.token), httponly=True, samesite="strict", path="/"
    )
    return answer


@router.delete("/v1/session", tags=["server"])
def end(options: Given) -> Response:
    """Forget the cookie."""
    answer = JSONResponse({"object": "session.deleted"})
    answer.delete_cookie(cookie_name(options), path="/")
    return answer
