"""From the body of a client to a `VideoRequest`: what may be asked for, and what not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tethercache.models import Settings, fetch, find
from tethercache.registry import nearest
from tethercache.request import VideoRequest
from tethercache.script import Script, script_from
from tethercache.serve.errors import ApiError
from tethercache.serve.options import Options

FIELDS = (
    "prompt",
    "seconds",
    "latent_frames",
    "policy",
    "model",
    "seed",
    "sample",
    "then",
    "crf",
    "decoder",
    "watch_drift",
    "guard",
    "trace",
)
"""Of `VideoRequest`, that a client may give."""

FILES = ("weights_dir", "loras", "prefix", "branch")
"""Of `VideoRequest`, that name files."""

DECIDED = (
    "device",
    "dtype",
    "vae_dtype",
    "vram",
    "attention",
    "compile",
    "overlap",
    "channels_last",
    "threads",
    "keep_snapshots",
    "snapshot_every",
    "snapshot_budget",
)
"""Of `VideoRequest`, that the server decides."""

OTHERS = ("script", "size")
"""That a client may give, and that are no fields of `VideoRequest`."""

MOST_BYTES = 64 << 10
MOST_CHARACTERS = 4000
MOST_CHANGES = 1000

_TEXTS = ("prompt", "policy", "model", "decoder", "size")


def request_from(body: Mapping[str, Any], options: Options, *, form: bool = False) -> VideoRequest:
    """The request that a body describes, checked against the model as far as that goes.

    Args:
        body: its fields.
        options: of the server.
        form: whether all values are texts.

    Raises:
        ApiError: naming what is wrong.
    """
    _check_names(body)
    values = {name: value for name, value in body.items() if value is not None}
    if form:
        values = {name: _typed(name, text) for name, text in values.items()}
    _check_seconds(values)
    size = values.pop("size", None)
    if "script" in values:
        values |= _of_script(values)
    values.setdefault("model", options.model)
    if values["model"] not in options.models:
        raise ApiError(
            400, f"`model` ({values['model']}) must be one of: {', '.join(options.models)}", "model"
        )
    if "prompt" not in values:
        raise ApiError(400, "a video must have a `prompt`", "prompt")
    try:
        request = VideoRequest.from_dict(values)
    except ValueError as error:
        raise _refusal(error, values) from None
    check(request, options, size)
    return request


def check(request: VideoRequest, options: Options, size: Any = None) -> None:
    """Check a request against the limits of the server and against its model.

    Raises:
        ApiError: naming what is wrong.
    """
    texts = [("prompt", request.prompt)]
    texts += [("then", change.text) for change in request.then if change.text is not None]
    for name, text in texts:
        if len(text) > MOST_CHARACTERS:
            raise ApiError(400, f"`{name}` must have at most {MOST_CHARACTERS} characters", name)
    if len(request.then) > MOST_CHANGES:
        raise ApiError(400, f"`then` must have at most {MOST_CHANGES} changes", "then")
    settings, policy = model_settings(request.model)
    if size is not None and size != (own := f"{settings.width}x{settings.height}"):
        raise ApiError(400, f"`size` ({size}) must be {own}, which this model makes", "size")
    try:
        plan = request.plan(settings, request.chosen_policy(policy))
    except ValueError as error:
        raise _refusal(error, request.to_dict()) from None
    if plan.num_frames > options.max_seconds * settings.fps:
        name = "seconds" if request.latent_frames is None else "latent_frames"
        seconds = plan.num_frames / settings.fps
        message = f"`{name}`: {seconds:g} s are more than {options.max_seconds:g} s, the most here"
        raise ApiError(400, message, name)


@lru_cache(maxsize=64)
def model_settings(name: str) -> tuple[Settings, str]:
    """How a model is used, and the policy that suits it; its files are fetched if need be."""
    model = find(name)
    settings = model.settings
    if settings is None:
        settings = fetch(model, None).settings
    return settings, model.policy


def _check_names(body: Mapping[str, Any]) -> None:
    for name in body:
        if name in (*FILES, "input_reference"):
            message = f"`{name}` names a file, and files of this machine cannot be asked for"
            raise ApiError(400, message, name, "unsupported_field")
        if name in DECIDED:
            message = f"`{name}` is decided by the server"
            raise ApiError(400, message, name, "unsupported_field")
        if name not in (*FIELDS, *OTHERS):
            message = f"a video has no field `{_short(name)}`{nearest(name, (*FIELDS, *OTHERS))}"
            raise ApiError(400, message, _short(name), "unknown_field")


def _check_seconds(values: dict[str, Any]) -> None:
    """OpenAI's clients give the seconds as a text."""
    if isinstance(values.get("seconds"), str):
        values["seconds"] = _number("seconds", values["seconds"], float)


def _of_script(values: dict[str, Any]) -> dict[str, Any]:
    """What a script gives of a request; it is taken out of the values."""
    if twice := {"prompt", "then"} & values.keys():
        raise ApiError(400, f"give `script` or `{min(twice)}`, not both", "script")
    try:
        script: Script = script_from(values.pop("script"))
    except ValueError as error:
        raise ApiError(400, f"`script`: {error}", "script") from None
    found = {"prompt": script.prompt, "then": [change.to_dict() for change in script.then]}
    lengths = {"seconds": script.seconds, "latent_frames": script.latent_frames}
    return found | {
        name: length
        for name, length in lengths.items()
        if length is not None and not {"seconds", "latent_frames"} & values.keys()
    }


def _typed(name: str, text: Any) -> Any:
    """The value that a text of a form stands for."""
    if not isinstance(text, str):
        raise ApiError(400, f"`{name}` must be a text, no file", name)
    if name in _TEXTS:
        return text
    if name in ("then", "script"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ApiError(400, f"`{name}` must be JSON", name) from None
    if name in ("watch_drift", "guard", "trace"):
        if text.lower() not in ("true", "false"):
            raise ApiError(400, f"`{name}` ({_short(text)}) must be true or false", name)
        return text.lower() == "true"
    return _number(name, text, float if name == "seconds" else int)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a number" if kind is float else "a whole number"
        raise ApiError(400, f"`{name}` ({_short(text)}) must be {what}", name) from None


def _refusal(error: ValueError, values: Mapping[str, Any]) -> ApiError:
    """The answer to a value that the rest of the code refuses; its message names the field."""
    text = str(error).replace("`num_seconds`", "`seconds`")  # as the pipeline calls it
    given = [name for name in FIELDS if name in values]
    named = [name for name in given if f"`{name}" in text]
    named = named or [name for name in given if re.search(rf"\b{name}\b", text)]
    return ApiError(400, text, named[0] if named else None)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
