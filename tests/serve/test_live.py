"""Live sessions on a real server: what is pushed is the file, late and slow clients, the page."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests import browser
from tests.serve.server import Server, serving

pytestmark = pytest.mark.slow

PROMPT = "a red ball rolling over grass"


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), model) as made:
        yield made


def opened(server: Server, **options: Any) -> ClientConnection:
    url = str(server.client.base_url).replace("http", "ws", 1).rstrip("/") + "/v1/live"
    return connect(url, max_size=None, **options)


def say(socket: ClientConnection, kind: str, **what: Any) -> None:
    socket.send(json.dumps({"type": kind, **what}))


def hear(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message of one of these kinds; bytes are put beside it as `content`."""
    while True:
        text = socket.recv(timeout=60)
        assert isinstance(text, str)
        message: dict[str, Any] = json.loads(text)
        if message["type"] in ("header", "chunk"):
            message["content"] = socket.recv(timeout=60)
        if message["type"] in kinds:
            return message


def test_what_is_pushed_is_the_growing_file(server: Server) -> None:
    with opened(server) as socket:
        say(socket, "start", id="a", request={"prompt": PROMPT, "seconds": 6, "trace": True})
        started = hear(socket, "started")
        assert started["id"] == "a"
        video = started["video"]["id"]
        assert started["video"]["live"] is True
        file = hear(socket, "header")["content"]
        chunks = []
        while (message := hear(socket, "chunk", "finished"))["type"] == "chunk":
            assert message["offset"] == len(file)
            file += message.pop("content")
            chunks.append(message)
        assert message["video"]["status"] == "completed"
    with av.open(io.BytesIO(file)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == chunks[-1]["stop"] == message["video"]["num_frames"]
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0]["memory"]["frames"]
    assert server.get(video, "/chunks?limit=1000")["data"] == chunks
    picture = server.client.get(f"/v1/videos/{video}/thumbnail?frame=20&width=64")
    assert picture.headers["content-type"] == "image/jpeg"
    assert server.client.get(f"/v1/videos/{video}/thumbnail?frame=9999").status_code == 404
    assert server.get(video, "/drift")["watched"] is False


def test_a_late_client_gets_the_rest_and_can_pause_and_stop(server: Server) -> None:
    with opened(server) as first, opened(server) as second:
        say(first, "start", request={"prompt": PROMPT, "seconds": 600})
        video = hear(first, "started")["video"]["id"]
        hear(first, "chunk")
        hear(first, "chunk")
        say(second, "watch", video=video)
        started = hear(second, "started")
        before = server.client.get(
            f"/v1/videos/{video}/content", headers={"range": f"bytes=0-{started['bytes'] - 1}"}
        )
        assert before.headers["etag"] == f'"{started["epoch"]}-growing"'
        chunk = hear(second, "chunk")
        assert chunk["offset"] == started["bytes"]
        with av.open(io.BytesIO(before.content + chunk["content"])) as container:
            assert sum(1 for _ in container.decode(video=0)) == chunk["stop"]
        say(second, "pause", id=7)
        assert hear(second, "queued")["id"] == 7
        hear(first, "paused")
        made = server.get(video)
        assert made["paused"] is True
        assert server.get(video)["chunks_made"] == made["chunks_made"]
        say(first, "resume")
        hear(second, "resumed")
        hear(second, "chunk")
        say(first, "stop")
        done = hear(second, "finished")["video"]
        assert done["status"] == "completed"
        assert done["num_frames"] == done["frames_made"] < 9600
    with opened(server) as third:
        say(third, "watch", video=video)
        assert hear(third, "started")["video"]["status"] == "completed"
        hear(third, "finished")


def test_what_cannot_be_is_said_and_the_connection_stays(server: Server) -> None:
    with opened(server) as socket:
        for message, code in (
            ({"type": "watch", "video": "video_none"}, "not_found"),
            ({"type": "start", "request": {"prompt": ""}}, "invalid_value"),
            ({"type": "start"}, "invalid_value"),
            ({"type": "dance"}, "unknown_type"),
            ({"type": "pause"}, "not_now"),
        ):
            socket.send(json.dumps({**message, "id": "x"}))
            error = hear(socket, "error")
            assert (error["id"], error["code"]) == ("x", code)
        say(socket, "ping", id=1)
        assert hear(socket, "pong")["id"] == 1
        socket.send("no json")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4400


def test_a_page_of_somebody_else_is_closed(server: Server) -> None:
    with opened(server, origin="https://evil.example") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403


@pytest.mark.browser
def test_the_studio_plays_a_video_while_it_is_made(tmp_path: Path) -> None:
    with browser.chromium() as chromium, serving(tmp_path / "served", "tiny") as server:
        view = {"width": 1280, "height": 800}
        page = chromium.new_page(viewport=view, bypass_csp=True)  # else no test may wait
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(str(server.client.base_url))
        page.fill("#prompt", PROMPT)
        page.fill("#seconds", "8")
        page.click("#generate")
        page.wait_for_function("document.querySelector('#video').currentTime > 1", timeout=60_000)
        video = server.client.get("/v1/videos").json()["data"][0]
        assert video["live"] is True
        server.wait(video["id"])
        page.reload()
        page.wait_for_function("document.querySelector('#video').duration > 7", timeout=60_000)
        assert not wrong
        page.close()
