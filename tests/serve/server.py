"""A real server in a process of its own, on a toy model or the shipped one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass
class Server:
    """One that listens.

    Attributes:
        process: of the server; its worker is a child.
        client: for its address.
    """

    process: subprocess.Popen[str]
    client: httpx.Client

    def post(self, **body: Any) -> dict[str, Any]:
        """Queue a video."""
        answer = self.client.post("/v1/videos", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, video: str, what: str = "") -> Any:
        """A video, or something of it, as JSON."""
        answer = self.client.get(f"/v1/videos/{video}{what}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, video: str, status: str = "completed", seconds: float = 120) -> dict[str, Any]:
        """Wait until a video has a status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found: dict[str, Any] = self.get(video)
            if found["status"] == status:
                return found
            assert found["status"] not in ("failed", "completed"), found
            time.sleep(0.1)
        raise AssertionError(f"it is still {found}")

    def wait_for_chunks(self, video: str, chunks: int) -> dict[str, Any]:
        """Wait until so many chunks of a video are made."""
        for _ in range(1200):
            found: dict[str, Any] = self.get(video)
            if found["chunks_made"] >= chunks:
                return found
            time.sleep(0.05)
        raise AssertionError(f"it is still {found}")


@contextmanager
def serving(folder: Path, model: Path | str, *flags: str) -> Iterator[Server]:
    """A server on a free port, until the block ends."""
    command = [sys.executable, "-m", "tethercache", "serve", "--folder", str(folder)]
    command += ["--model", str(model), "--port", "0", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://[\w.:\[\]]+", said)
        assert found, f"the server said {said!r}"
        threading.Thread(target=process.stdout.read, daemon=True).start()
        with httpx.Client(base_url=found[0], timeout=30) as client:
            for _ in range(600):
                if client.get("/health").status_code == 200:
                    break
                time.sleep(0.1)
            yield Server(process, client)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
