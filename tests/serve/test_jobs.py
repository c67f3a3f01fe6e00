"""Jobs on a real server: made, read while they grow, stopped, deleted, and there after a kill."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import psutil
import pytest

import tethercache as tc
from tests.serve.server import Server, serving

pytestmark = pytest.mark.slow

PROMPT = "a red ball rolling over grass"


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), model) as made:
        yield made


def frames_in(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_job_is_the_video_that_the_command_makes(
    server: Server, model: Path, tmp_path: Path
) -> None:
    job = server.post(prompt=PROMPT, seconds=3, seed=4, policy="sink")
    assert job["object"] == "video"
    done = server.wait(job["id"])
    assert done["progress"] == 100
    assert done["seconds"] == "3"
    request = tc.VideoRequest(PROMPT, seconds=3, seed=4, policy="sink", model=str(model))
    alone = tc.make(request, tmp_path / "alone.mp4")
    record = server.get(job["id"], "/record")
    assert record["frames_hash"] == alone.frames_hash
    content = server.client.get(f"/v1/videos/{job['id']}/content")
    assert content.headers["content-type"] == "video/mp4"
    assert content.content == (tmp_path / "alone.mp4").read_bytes()
    part = server.client.get(f"/v1/videos/{job['id']}/content", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_it_can_be_read_while_it_grows_and_be_stopped(server: Server) -> None:
    job = server.post(prompt=PROMPT, seconds=600)
    seen = server.wait_for_chunks(job["id"], 3)
    assert seen["status"] == "in_progress"
    growing = server.client.get(f"/v1/videos/{job['id']}/content")
    assert growing.headers["etag"].endswith('-growing"')
    assert frames_in(growing.content) >= 33
    answer = server.client.post(f"/v1/videos/{job['id']}/stop")
    assert answer.status_code == 200
    done = server.wait(job["id"])
    complete = server.client.get(f"/v1/videos/{job['id']}/content")
    assert frames_in(complete.content) == done["num_frames"] == done["frames_made"]
    assert complete.headers["etag"] != growing.headers["etag"]


def test_deleting_removes_the_files_of_a_video_that_is_made(server: Server) -> None:
    job = server.post(prompt=PROMPT, seconds=600)
    server.wait_for_chunks(job["id"], 1)
    answer = server.client.delete(f"/v1/videos/{job['id']}")
    assert answer.json() == {"id": job["id"], "object": "video.deleted", "deleted": True}
    assert server.client.get(f"/v1/videos/{job['id']}").status_code == 404
    after = server.post(prompt=PROMPT, seconds=1)
    server.wait(after["id"])
    error = server.client.get("/v1/videos/video_none").json()["error"]
    assert error["type"] == "invalid_request_error"


def test_after_kill_9_finished_videos_and_the_queue_are_there_and_the_rest_goes_on(
    model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    with serving(folder, model, "--active", "1") as server:
        done = server.post(prompt=PROMPT, seconds=1)
        server.wait(done["id"])
        going = server.post(prompt=PROMPT, seconds=60, seed=9)
        queued = server.post(prompt="a blue ball rolling over sand", seconds=1)
        server.wait_for_chunks(going["id"], 12)
        family = [psutil.Process(server.process.pid)]
        family += family[0].children(recursive=True)
        for process in family:
            os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(family, 20)
    with serving(folder, model, "--active", "1") as server:
        assert server.get(done["id"])["status"] == "completed"
        assert server.get(queued["id"])["status"] in ("queued", "in_progress", "completed")
        server.wait(going["id"])
        server.wait(queued["id"])
        record = server.get(going["id"], "/record")
        with pytest.raises(AssertionError), serving(folder, model):
            pass  # two servers on one folder
    request = tc.VideoRequest(PROMPT, seconds=60, seed=9, model=str(model))
    assert tc.make(request, tmp_path / "alone.mp4").frames_hash == record["frames_hash"]


def test_the_client_of_openai_works(server: Server) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key="none", base_url=f"{server.client.base_url}/v1") as client:
        job = client.videos.create(prompt=PROMPT, seconds="2")
        assert job.status in ("queued", "in_progress", "completed")
        server.wait(job.id)
        found = client.videos.retrieve(job.id)
        assert (found.status, found.seconds, found.progress) == ("completed", "2", 100)
        content = client.videos.download_content(job.id).read()
        assert content[4:8] == b"ftyp"
        listed = [video.id for video in client.videos.list(limit=1, order="desc")]
        assert job.id in listed
        assert client.videos.delete(job.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(job.id)
        with pytest.raises(openai.BadRequestError, match="prompt"):
            client.videos.create(prompt="")
