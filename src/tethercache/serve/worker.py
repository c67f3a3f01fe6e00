"""The process that holds the model, and makes videos in turn, chunk by chunk.

It speaks with the server over a socket, in objects of JSON; each has a `video`, the id, but for
`ready`. When the socket is closed, by whatever end of the server, it ends at once: what is on disk
is whole at every moment, and the next worker goes on with it.

server → worker, as `do`:

    make      a video: `request`, `epoch`; also one that a worker before has begun
    stop      it is complete as it is
    drop      leave it; its files will be deleted
    others    what a live session asks for, with `ask`, its number: `Turn.obey`

worker → server, as `is`:

    ready     the first model is loaded: `device`, `threads`
    begun     the video has begun, or goes on: `chunks_made`, `frames_made`, `bytes`, `epoch`,
              `num_frames`, `num_chunks`, `fps`, `width`, `height`, `policy`, `changes`, `mime`
    chunk     a chunk is in the file: `chunk`, as docs/serve.md has it; `chunks_made`,
              `frames_made`, `bytes`, `speed`
    rewound   frames were taken back: `epoch`, `chunks_made`, `frames_made`, `bytes`, `second`,
              `why`
    ended     it is complete or has failed: `error`, null or its `code` and `message`; and what is
              known of it then
    dropped   its files are closed
    refused   a command: `ask`, `code`, `message`, `param`

A live session's other answers (`applied`, `paused`, ...) are told with `Turn.tell`, too.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tethercache.render.held import Held
from tethercache.request import VideoRequest
from tethercache.serve.turn import Refusal, Turn, describe

logger = logging.getLogger(__name__)


class Worker:
    """Makes videos in turn.

    Args:
        connection: to the server.
        folder: of the videos.
    """

    def __init__(self, connection: Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._held: dict[str, Held] = {}
        self._turns: list[Turn] = []  # the next one first

    def run(self, model: str) -> None:
        """Load a model, then make what the server asks for, until it is gone."""
        import torch

        threading.Thread(target=self._listen, daemon=True).start()
        device = self._model(model).device
        self.tell("ready", device=device, threads=torch.get_num_threads())
        while True:
            self._read(wait=all(turn.paused for turn in self._turns))
            turn = next((turn for turn in self._turns if not turn.paused), None)
            if turn is not None:
                self._turns.remove(turn)
                if self._guarded(turn, turn.step):
                    self._turns.append(turn)

    def _listen(self) -> None:
        """Take in what the server says; without it, end."""
        while True:
            try:
                message = self._connection.recv_bytes()
            except (EOFError, OSError):
                os._exit(0)
            self._inbox.put(json.loads(message))

    def tell(self, what: str, **facts: Any) -> None:
        """Send a message to the server."""
        message = json.dumps({"is": what, **facts}, separators=(",", ":"))
        try:
            self._connection.send_bytes(message.encode())
        except OSError:
            os._exit(0)

    def _read(self, *, wait: bool) -> None:
        """Do what the server has asked for meanwhile; wait for something, if nothing is to do."""
        while True:
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return
            self._do(message)
            wait = False

    def _do(self, message: Mapping[str, Any]) -> None:
        name = message["video"]
        if message["do"] == "make":
            self._begin(message)
            return
        turn = next((turn for turn in self._turns if turn.name == name), None)
        if turn is None:
            if message["do"] == "drop":
                self.tell("dropped", video=name)
            elif "ask" in message:
                self._refuse(message, Refusal("the video is not being made", "not_now"))
        elif message["do"] == "drop":
            self._turns.remove(turn)
            turn.abandon()
            self.tell("dropped", video=name)
        elif message["do"] == "stop" and turn.making and turn.making.recording.chunks:
            self._turns.remove(turn)
            self._guarded(turn, turn.finish)
        elif message["do"] != "stop":
            self._obey(turn, message)

    def _begin(self, message: Mapping[str, Any]) -> None:
        name, path = message["video"], self._folder / f"{message['video']}.mp4"
        try:
            request = VideoRequest.from_dict(message["request"])
            held = self._model(request.model)
        except Exception as error:
            self.tell("ended", video=name, error=describe(error, self._folder))
            return
        turn = Turn(name, path, request, held, message["epoch"], self.tell)
        if self._guarded(turn, turn.begin):
            self._turns.insert(0, turn)

    def _obey(self, turn: Turn, message: Mapping[str, Any]) -> None:
        try:
            turn.obey(message)
        except Refusal as refusal:
            self._refuse(message, refusal)
        except Exception as error:
            self._turns.remove(turn)
            self._fail(turn, error)

    def _refuse(self, message: Mapping[str, Any], refusal: Refusal) -> None:
        about = {"video": message["video"], "ask": message.get("ask")}
        self.tell("refused", **about, code=refusal.code, message=str(refusal), param=refusal.param)

    def _guarded(self, turn: Turn, do: Any) -> bool:
        """Let a video do something; whether it has another turn. One that fails harms no other."""
        try:
            return bool(do())
        except Exception as error:
            self._fail(turn, error)
            return False

    def _fail(self, turn: Turn, error: Exception) -> None:
        logger.error("%s failed", turn.name, exc_info=error)
        turn.abandon()
        turn.failed(error)

    def _model(self, name: str) -> Held:
        if name not in self._held:
            self._held[name] = Held(VideoRequest("a video", model=name))
        return self._held[name]


def main(arguments: list[str]) -> None:
    """Run the process: descriptor of the socket, folder, name of the first model."""
    descriptor, folder, model = arguments
    Worker(Connection(int(descriptor)), Path(folder)).run(model)


if __name__ == "__main__":
    main(sys.argv[1:])
