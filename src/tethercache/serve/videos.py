"""The routes of `/v1/videos`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from tethercache.files import DiskFullError
from tethercache.serve.answers import list_object, video_object
from tethercache.serve.asking import request_from
from tethercache.serve.content import Content, serve
from tethercache.serve.desk import Desk, Status, Video
from tethercache.serve.errors import ApiError, not_found
from tethercache.serve.options import Options
from tethercache.serve.workshop import Workshop
from tethercache.video.sidecar import sidecar_path
from tethercache.video.target import partial_path

router = APIRouter(prefix="/v1/videos", tags=["videos"])

LEAST_FREE = 256 << 20
"""Bytes that must be free on the disk for a video to be queued."""

_ID = re.compile(r"video_[0-9a-f]{32}")
_MP4 = "video/mp4"


class Shop:
    """What the routes work with."""

    def __init__(self, request: Request) -> None:
        self.options: Options = request.app.state.options
        self.desk: Desk = request.app.state.desk
        self.workshop: Workshop = request.app.state.workshop

    def object(self, video: Video) -> dict[str, Any]:
        """A video, as JSON."""
        return video_object(video, self.desk)


def find(video_id: str, shop: Annotated[Shop, Depends()]) -> Video:
    """The video that a path names.

    Raises:
        ApiError: there is none.
    """
    if not _ID.fullmatch(video_id):
        raise not_found()
    try:
        return shop.desk.get(video_id)
    except KeyError:
        raise not_found() from None


InShop = Annotated[Shop, Depends()]
Found = Annotated[Video, Depends(find)]


async def read_body(request: Request) -> tuple[Mapping[str, Any], bool]:
    """The fields of a body, and whether it is a form, whose values are texts.

    Raises:
        ApiError: it is neither JSON nor a form.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form = await request.form(max_files=1, max_fields=50)
        fields = {name: value for name, value in form.multi_items()}
        if len(fields) < len(form.multi_items()):
            raise ApiError(400, "a field is there twice")
        return fields, True
    if kind != "application/json":
        raise ApiError(415, "the body must be `application/json` or a form")
    try:
        body = json.loads(await request.body() or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be an object of JSON", code="invalid_json")
    return body, False


def _no_number(text: str) -> None:
    raise ValueError(text)


Body = Annotated[tuple[Mapping[str, Any], bool], Depends(read_body)]


def check_disk(folder: Path) -> None:
    """Refuse to begin anything where the disk is almost full.

    Raises:
        DiskFullError: it is.
    """
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise DiskFullError(28, f"{free >> 20} MB are free")


@router.post("")
def create(body: Body, shop: InShop) -> dict[str, Any]:
    """Queue a video; `prompt` must be there."""
    fields, form = body
    request = request_from(fields, shop.options, form=form)
    check_disk(shop.options.folder)
    video = shop.desk.add(request)
    shop.workshop.wake()
    return shop.object(video)


@router.get("")
def page(
    shop: InShop,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    status: Literal["queued", "in_progress", "completed", "failed"] | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """A page of videos."""
    try:
        found, more = shop.desk.page(
            limit=limit, after=after, ascending=order == "asc", status=status, parent=parent
        )
    except KeyError:
        raise ApiError(400, "`after` is no video", "after") from None
    return list_object([shop.object(video) for video in found], more=more)


@router.get("/{video_id}")
def retrieve(video: Found, shop: InShop) -> dict[str, Any]:
    """One video."""
    return shop.object(video)


@router.delete("/{video_id}")
def delete(video: Found, shop: InShop) -> dict[str, Any]:
    """Stop a video if it is being made, and delete its files."""
    shop.workshop.delete(video)
    shop.workshop.wake()
    return {"id": video.id, "object": "video.deleted", "deleted": True}


@router.post("/{video_id}/stop")
def stop(video: Found, shop: InShop) -> dict[str, Any]:
    """Stop a video here; what there is becomes the complete video."""
    if video.status is not Status.IN_PROGRESS or not video.known.get("chunks_made"):
        raise ApiError(409, f"the video is {video.status.value}, and nothing of it can be stopped")
    shop.workshop.stop(video)
    return shop.object(video)


@router.api_route("/{video_id}/content", methods=["GET", "HEAD"])
def content(request: Request, video: Found, shop: InShop, variant: str = "video") -> Response:
    """The mp4, with `Range`, also while it grows."""
    if variant != "video":
        raise ApiError(400, "`variant` must be video; a thumbnail is at /thumbnail", "variant")
    return serve(request, content_of(video, shop))


def content_of(video: Video, shop: Shop) -> Content:
    """The file of a video, complete or as far as it is whole.

    Raises:
        ApiError: there is none yet.
    """
    path, epoch = video.path(shop.options.folder), video.known.get("epoch", 0)
    growing = shop.workshop.growing(video.id)
    if growing is not None:
        tag = f"{growing.epoch}-growing"
        return Content(growing.descriptor, growing.size, tag, _MP4, path.name)
    for there, word in ((path, "complete"), (partial_path(path), "broken-off")):
        if word == "complete" or video.status is Status.FAILED:
            try:
                return Content.of(there, f"{epoch}-{word}", _MP4)
            except FileNotFoundError:
                continue
    raise ApiError(409, f"the video is {video.status.value}, and nothing is made", code="not_ready")


@router.get("/{video_id}/record")
def record(video: Found, shop: InShop) -> Response:
    """The record beside the video: all that is needed to make it again."""
    path = video.path(shop.options.folder)
    for place in (path, partial_path(path)):
        try:
            return Response(sidecar_path(place).read_bytes(), media_type="application/json")
        except FileNotFoundError:
            continue
    raise ApiError(409, "there is no record before the video is begun", code="not_ready")
