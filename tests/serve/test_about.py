"""What the server says of itself, and sessions of the page."""

from __future__ import annotations

from pathlib import Path

from tests.serve.test_security import TOKEN, client_of


def test_models_policies_and_limits(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["id"], model["width"], model["fps"]) == ("tiny", 64, 16)
        assert "red" in model["words"]
        assert client.get("/v1/models/tiny").json() == model
        assert client.get("/v1/models/other").status_code == 404
        known = client.get("/v1/studio").json()
        assert known["models"] == [model]
        assert {"tethercache", "fifo"} <= {policy["name"] for policy in known["policies"]}
        assert known["limits"]["seconds"] == 3600.0
        for example in known["examples"]:
            assert set(example.split()) <= set(model["words"])


def test_metrics_are_those_of_prometheus(tmp_path: Path) -> None:
    from types import SimpleNamespace

    with client_of(tmp_path) as client:
        totals = SimpleNamespace(frames=3, chunks=1, seconds=0.5, workers=1, ended={"failed": 2})
        client.app.state.workshop.totals = totals  # type: ignore[attr-defined]
        body = {"prompt": "a red ball", "seconds": 2}
        assert client.post("/v1/videos", json=body).status_code == 200
        text = client.get("/metrics").text
    assert "tethercache_frames_total 3\n" in text
    assert 'tethercache_videos{status="queued"} 1\n' in text
    assert 'tethercache_ended_total{status="failed"} 2\n' in text


def test_a_cookie_stands_for_the_token(tmp_path: Path) -> None:
    with client_of(tmp_path, token=TOKEN) as client:
        assert client.post("/v1/session", json={"token": "wrong"}).status_code == 401
        assert client.get("/v1/videos").status_code == 401
        answer = client.post("/v1/session", json={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert client.get("/v1/videos").status_code == 200
        client.delete("/v1/session")
        assert client.get("/v1/videos").status_code == 401


def test_a_remix_has_another_prompt(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        body = {"prompt": "a red ball", "seconds": 2, "seed": 5}
        first = client.post("/v1/videos", json=body).json()
        url = f"/v1/videos/{first['id']}/remix"
        second = client.post(url, json={"prompt": "a blue ball"}).json()
        assert second["remixed_from_video_id"] == first["id"]
        assert (second["prompt"], second["seed"], second["seconds"]) == ("a blue ball", 5, "2")
        assert client.post(url, json={"prompt": "x", "seed": 1}).status_code == 400
