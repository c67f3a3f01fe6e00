"""Who may call: each line of the page's section about security, on the application itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tethercache.serve.app import application
from tethercache.serve.desk import Desk
from tethercache.serve.options import Options
from tethercache.serve.workshop import State

TOKEN = "a-secret"


def client_of(folder: Path, **given: Any) -> TestClient:
    options = Options(folder, **given)
    workshop: Any = SimpleNamespace(
        state=State.READY,
        about={},
        start=lambda: None,
        close=lambda: None,
        wake=lambda: None,
        growing=lambda name: None,
    )
    return TestClient(
        application(options, Desk(folder), workshop), base_url="http://127.0.0.1:7860"
    )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(tmp_path) as made:
        yield made


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(tmp_path, token=TOKEN) as made:
        yield made


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost:7860", 200),
        ("[::1]:7860", 200),
        ("192.168.1.5", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:7860", 403),
        ("", 403),
    ],
)
def test_a_name_that_resolves_here_is_no_way_in(client: TestClient, host: str, status: int) -> None:
    assert client.get("/v1/videos", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:7860", 200),
        ("https://evil.example", 403),
        ("http://127.0.0.1:7861", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
def test_pages_of_others_may_not_call(client: TestClient, origin: str, status: int) -> None:
    body = {"prompt": "a red ball", "seconds": 2}
    answer = client.post("/v1/videos", json=body, headers={"origin": origin})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_an_allowed_name_may_call(tmp_path: Path) -> None:
    with client_of(tmp_path, allowed_hosts=("films.example",)) as client:
        headers = {"host": "films.example", "origin": "https://films.example"}
        assert client.get("/v1/videos", headers=headers).status_code == 200


def test_a_token_is_wanted_everywhere_but_for_the_page(locked: TestClient) -> None:
    for path in ("/", "/health"):
        assert locked.get(path).status_code == 200
    answer = locked.get("/v1/videos")
    assert answer.status_code == 401
    assert answer.json()["error"]["type"]
    assert locked.get("/openapi.json").status_code == 401
    for given in ("a-secre", "a-secret2", ""):
        headers = {"authorization": f"Bearer {given}"}
        assert locked.get("/v1/videos", headers=headers).status_code == 401
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert locked.get("/v1/videos", headers=headers).status_code == 200


def test_another_host_than_the_loopback_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="token"):
        Options(tmp_path, host="0.0.0.0")
    Options(tmp_path, host="0.0.0.0", token=TOKEN)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../desk.py",
        "/static/%2e%2e/desk.py",
        "/static/..%2fdesk.py",
        "/v1/videos/../../etc/passwd",
        "/v1/videos/..%2f..%2fetc%2fpasswd/content",
        "/v1/videos/queue.sqlite3/content",
        "/v1/videos/%00/record",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (400, 404)


def test_bodies_have_a_limit_whatever_they_say_of_themselves(client: TestClient) -> None:
    large = b'{"prompt": "' + b"a" * (1 << 20) + b'"}'
    assert client.post("/v1/videos", content=large).status_code == 413
    json = {"content-type": "application/json"}
    headers = {**json, "content-length": str(1 << 30)}
    assert client.post("/v1/videos", content=b"{}", headers=headers).status_code == 413
    parts = (b"x" * 1024 for _ in range(200))
    assert client.post("/v1/videos", content=parts, headers=json).status_code == 413


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"nul", b'{"prompt": NaN}', b"\xff\xfe", b"[" * 50_000, b'"text"']
)
def test_what_is_no_json_is_said_to_be_none(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/videos", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_every_answer_holds_the_page_to_this_server(client: TestClient) -> None:
    for path in ("/", "/health", "/nothing", "/v1/videos"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
