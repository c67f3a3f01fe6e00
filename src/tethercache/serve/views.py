"""Routes that show something of a video: its chunks, its drift, a picture of a frame."""

from __future__ import annotations

import io
import os
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from tethercache.evaluation.verdict import THRESHOLDS
from tethercache.serve.asking import request_from
from tethercache.serve.errors import ApiError
from tethercache.serve.videos import Body, Found, InShop, check_disk, content_of

router = APIRouter(prefix="/v1/videos/{video_id}", tags=["videos"])


@router.get("/chunks")
def chunks(
    video: Found,
    shop: InShop,
    start: Annotated[int, Query(alias="from", ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """What was said of each chunk, as a live session hears it."""
    found, more = shop.desk.chunks(video.id, start, limit)
    return {"object": "list", "data": found, "has_more": more}


@router.get("/drift")
def drift(video: Found, shop: InShop) -> dict[str, Any]:
    """The drift curve, a point a chunk where it was judged, and the verdict."""
    points, start, more = [], 0, True
    while more:
        found, more = shop.desk.chunks(video.id, start, 1000)
        start += len(found)
        points += [
            {"second": chunk["second"], **chunk["drift"]} for chunk in found if chunk["drift"]
        ]
    return {
        "object": "drift",
        "video": video.id,
        "watched": video.request.watch_drift or video.request.guard,
        "points": points,
        "verdict": video.known.get("verdict"),
        "thresholds": thresholds(),
    }


def thresholds() -> list[dict[str, Any]]:
    """From where on a metric speaks of drift; `falls`: where smaller is worse."""
    return [
        {"metric": each.metric, "drifting": each.drifting, "falls": each.is_ratio}
        for each in THRESHOLDS
    ]


@router.get("/thumbnail")
def thumbnail(
    video: Found,
    shop: InShop,
    frame: Annotated[int, Query(ge=0)] = 0,
    width: Annotated[int, Query(ge=16, le=1920)] = 160,
) -> Response:
    """A JPEG of a frame, also of a video that grows.

    The answer may be kept for good if the client names the epoch: other frames have another.
    """
    import av
    from PIL import Image

    source = content_of(video, shop)
    with os.fdopen(source.descriptor, "rb") as file:
        readable = _Bounded(file, source.size)
        try:
            with av.open(readable, "r", format="mp4") as container:
                stream = container.streams.video[0]
                assert stream.time_base is not None
                rate = stream.average_rate or video.known.get("fps") or 16
                wanted = int(frame / rate / stream.time_base)
                container.seek(wanted, stream=stream)
                picture = next(
                    (each for each in container.decode(stream) if (each.pts or 0) >= wanted), None
                )
        except (av.FFmpegError, IndexError):
            picture = None
    if picture is None:
        raise ApiError(404, f"there is no frame {frame}", "frame")
    image = Image.fromarray(picture.to_ndarray(format="rgb24"))
    height = max(1, round(image.height * width / image.width))
    out = io.BytesIO()
    image.resize((width, height)).save(out, "JPEG", quality=85)
    return Response(
        out.getvalue(),
        media_type="image/jpeg",
        headers={"cache-control": "private, max-age=3600", "etag": f'"{source.tag}-{frame}"'},
    )


class _Bounded(io.RawIOBase):
    """The first bytes of a file, those that are whole."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return int(self._file.seek(max(0, base + offset)))

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._size - self.tell())
        return int(self._file.readinto(memoryview(buffer)[:left]))


@router.post("/remix")
def remix(body: Body, video: Found, shop: InShop) -> dict[str, Any]:
    """Queue the same with another prompt."""
    fields, _ = body
    if set(fields) != {"prompt"}:
        raise ApiError(400, "a remix has a `prompt`, and nothing else", "prompt")
    asked = {
        name: value
        for name in ("seconds", "latent_frames", "policy", "model", "seed", "sample", "crf")
        if (value := getattr(video.request, name)) is not None
    }
    request = request_from({**asked, "prompt": fields["prompt"]}, shop.options)
    check_disk(shop.options.folder)
    made = shop.desk.add(request, remixed=video.id)
    shop.workshop.wake()
    return shop.object(made)
