"""Live sessions: a WebSocket about one video, see docs/serve.md.

    worker ──> Workshop.listening ──> a queue of this connection ──> messages, and bytes of the file

The queue has an end: who does not read is dropped, and may watch again, for the file has
everything. Bytes are read from the growing file here, so that a message and its fragment go out
together.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from tethercache.serve.answers import video_object
from tethercache.serve.asking import request_from
from tethercache.serve.desk import Desk, FullQueueError, Status, Video
from tethercache.serve.errors import ApiError
from tethercache.serve.options import Options
from tethercache.serve.videos import check_disk
from tethercache.serve.workshop import Workshop

router = APIRouter()

WAITING = 256
"""Messages that may wait for a client."""

_NOT_JSON, _TOO_SLOW, _TOO_MANY = 4400, 4008, 4429
MOST = 64
"""Connections at once."""

_LATER = ("prompt", "pin", "forget", "rewind", "branch")
_NOW = ("pause", "resume", "stop")


class Session:
    """One connection."""

    def __init__(self, socket: WebSocket) -> None:
        state = socket.app.state
        self._socket = socket
        self._options: Options = state.options
        self._desk: Desk = state.desk
        self._workshop: Workshop = state.workshop
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue(WAITING)
        self._video = ""
        self._telling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer what the client says, until it leaves."""
        try:
            while True:
                try:
                    message = json.loads(await self._socket.receive_text())
                except (ValueError, RecursionError, KeyError):
                    await self._socket.close(_NOT_JSON, "that was no JSON")
                    return
                if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                    await self._socket.close(_NOT_JSON, "a message is an object with a `type`")
                    return
                await self._answer(message)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it has left
        finally:
            if self._telling is not None:
                self._telling.cancel()

    async def _answer(self, message: Mapping[str, Any]) -> None:
        kind, name = message["type"], message.get("id")
        try:
            if kind == "ping":
                await self._send({"type": "pong", "id": name})
            elif kind in ("start", "watch"):
                video = await asyncio.to_thread(getattr(self, f"_{kind}"), message)
                await self._follow(video, name)
            elif kind in _NOW:
                await self._command(kind, name)
            elif kind in _LATER:
                raise ApiError(501, f"`{kind}` cannot be done while a video is made yet", "type")
            else:
                raise ApiError(400, "there is no message of this type", "type", "unknown_type")
        except (ApiError, FullQueueError) as error:
            code = getattr(error, "code", None) or "not_now"
            said = {"code": code, "message": str(error), "param": getattr(error, "param", None)}
            await self._send({"type": "error", "id": name, **said})

    def _start(self, message: Mapping[str, Any]) -> Video:
        if self._telling is not None:
            raise ApiError(409, "this connection is about a video already", "type", "not_now")
        asked = message.get("request")
        if not isinstance(asked, dict):
            raise ApiError(400, "`request` must be an object", "request")
        request = request_from(asked, self._options)
        check_disk(self._options.folder)
        video = self._desk.add(request, live=True)
        self._workshop.wake()
        return video

    def _watch(self, message: Mapping[str, Any]) -> Video:
        if self._telling is not None:
            raise ApiError(409, "this connection is about a video already", "type", "not_now")
        try:
            return self._desk.get(str(message.get("video")))
        except KeyError:
            raise ApiError(404, "there is no such video", "video", "not_found") from None

    async def _command(self, kind: str, name: Any) -> None:
        if not self._video:
            raise ApiError(409, "watch or start a video first", "type", "not_now")
        if kind == "stop":
            video = self._desk.get(self._video)
            if video.status is not Status.IN_PROGRESS or not video.known.get("chunks_made"):
                raise ApiError(409, "nothing of it can be stopped", "type", "not_now")
            await asyncio.to_thread(self._workshop.stop, video)
        else:
            await asyncio.to_thread(self._workshop.ask, self._video, kind)
        await self._send({"type": "queued", "id": name})

    # What the server says

    async def _follow(self, video: Video, name: Any) -> None:
        self._video = video.id
        begun = asyncio.Event()
        self._telling = asyncio.create_task(self._tell(video.id, name, begun))
        await begun.wait()

    async def _tell(self, video: str, name: Any, begun: asyncio.Event) -> None:
        """Pass on all that is said of a video, from now on."""
        try:
            with self._workshop.listening(video, self._hear):
                sent, epoch = await self._say_started(video, name)
                begun.set()
                while (message := await self._heard.get()) is not None:
                    if not await self._pass_on(message, sent, epoch):
                        break
                else:
                    await self._socket.close(_TOO_SLOW, "too slow; watch again")
        except (WebSocketDisconnect, RuntimeError, KeyError):
            pass  # it has left, or the video is gone
        finally:
            begun.set()

    async def _say_started(self, video: str, name: Any) -> tuple[int, int]:
        growing = self._workshop.growing(video)
        found = self._desk.get(video)
        facts: dict[str, Any] = {"mime": 'video/mp4; codecs="avc1.64000A"', "bytes": 0, "epoch": 0}
        facts["epoch"] = found.known.get("epoch", 0)
        if growing is not None:
            os.close(growing.descriptor)
            facts = {"mime": growing.mime, "bytes": growing.size, "epoch": growing.epoch}
        shown = video_object(found, self._desk)
        await self._send({"type": "started", "id": name, "video": shown, **facts})
        if found.status is Status.QUEUED:
            position = self._desk.position(found)
            await self._send({"type": "waiting", "video": video, "position": position})
        elif found.is_over:
            await self._send({"type": "finished", "video": shown})
        return facts["bytes"], facts["epoch"]

    async def _pass_on(self, message: Mapping[str, Any], sent: int, epoch: int) -> bool:
        """Send one message with its bytes; False: it was the last."""
        kind, video = message["is"], self._video
        if kind == "begun":
            about = {"video": video, "mime": message["mime"], "epoch": message["epoch"]}
            size = message["bytes"]
            await self._with_bytes({"type": "header", **about, "bytes": size}, 0, size)
        elif kind == "chunk":
            chunk = message["chunk"]
            end = chunk["offset"] + chunk["bytes"]
            if chunk["epoch"] > epoch or end > sent:  # else `content` had it at `started`
                await self._with_bytes(chunk, chunk["offset"], end)
        elif kind == "rewound":
            facts = {key: message[key] for key in ("second", "bytes", "epoch", "why")}
            frame = message["frames_made"]
            await self._send({"type": "rewound", "video": video, "frame": frame, **facts})
        elif kind in ("paused", "resumed"):
            await self._send({"type": kind, "video": video})
        elif kind == "refused":
            said = {key: message.get(key) for key in ("code", "message", "param")}
            await self._send({"type": "error", "id": None, **said})
        elif kind == "ended":
            shown = video_object(self._desk.get(video), self._desk)
            await self._send({"type": "finished", "video": shown})
            return False
        elif kind == "gone":
            await self._send({"type": "gone", "video": video})
            return False
        return True

    async def _with_bytes(self, message: Mapping[str, Any], start: int, stop: int) -> None:
        """A message, and the bytes of the file that belong to it; neither if they are void."""
        growing = self._workshop.growing(self._video)
        if growing is None:
            return
        try:
            content = os.pread(growing.descriptor, stop - start, start)
        finally:
            os.close(growing.descriptor)
        if len(content) == stop - start:
            await self._send(message)
            await self._socket.send_bytes(content)

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Called by the workshop's thread."""
        self._loop.call_soon_threadsafe(self._take, message)

    def _take(self, message: Mapping[str, Any]) -> None:
        try:
            self._heard.put_nowait(message)
        except asyncio.QueueFull:
            while not self._heard.empty():
                self._heard.get_nowait()
            self._heard.put_nowait(None)

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message))


@router.websocket("/v1/live")
async def live(socket: WebSocket) -> None:
    """A connection about one video."""
    await socket.accept()
    sessions = socket.app.state.sessions
    if len(sessions) >= MOST:
        await socket.close(_TOO_MANY, "too many connections")
        return
    session = Session(socket)
    sessions.add(session)
    try:
        await session.run()
    finally:
        sessions.discard(session)
