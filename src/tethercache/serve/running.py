"""A server from its options to its end."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tethercache.files import create, lock, open_existing
from tethercache.serve.app import application
from tethercache.serve.desk import Desk
from tethercache.serve.options import Options
from tethercache.serve.workshop import Workshop

CONNECTIONS = 512
"""How many there may be at once."""

_LOCK = ".server.lock"


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Hold a folder of videos.

    Raises:
        FileExistsError: another server has it.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    try:
        file = open_existing(path)
    except FileNotFoundError:
        file = create(path)
    with file:
        try:
            lock(file, path)
        except FileExistsError:
            message = "another server works in this folder; choose another with --folder"
            raise FileExistsError(errno.EEXIST, message, str(folder)) from None
        yield


def run(options: Options, said: Callable[[str], None] = lambda text: None) -> None:
    """Serve until a signal comes.

    Args:
        options: of the server.
        said: is told the address, when the server listens.

    Raises:
        FileExistsError: another server works in the folder.
        OSError: the folder cannot be written.
        ValueError: the port is not free.
    """
    with only_server(options.folder):
        desk = Desk(options.folder, options.max_queue)
        workshop = Workshop(desk, options.model, options.active)
        app = application(options, desk, workshop)
        config = uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
            ws_max_size=64 << 10,
            server_header=False,
        )
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        socket.listen(config.backlog)  # who calls before the server is ready waits
        try:
            host = f"[{options.host}]" if ":" in options.host else options.host
            port = socket.getsockname()[1]
            said(f"http://{host}:{port}/")
            server.run(sockets=[socket])
        finally:
            socket.close()
            desk.close()
