"""`tethercache serve`: jobs, live sessions and the studio over HTTP."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from tethercache.cli.failures import Debug
from tethercache.errors import MissingToolError


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Which model is made with; several times: the first is the default."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; other than the loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: any that is free.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(help="What clients must show.", envvar="TETHERCACHE_TOKEN", show_envvar=True),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where videos, records, snapshots and the queue are kept.")
    ] = Path("videos"),
    active: Annotated[
        int, typer.Option(help="How many videos are made in turn; as many live ones again.")
    ] = 2,
    max_seconds: Annotated[float, typer.Option(help="The longest video.")] = 3600.0,
    max_queue: Annotated[int, typer.Option(help="How many videos may wait.")] = 20_000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this server, such as that of a proxy; several times."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve videos: as jobs for programs, in the studio for people.

    What is unfinished when the server ends goes on with the same command.
    """
    if not all(map(find_spec, ("fastapi", "uvicorn", "websockets", "python_multipart"))):
        raise MissingToolError(
            "serve needs packages that are not here: pip install 'tethercache[serve]'"
        )
    from tethercache.serve.options import Options
    from tethercache.serve.running import run

    options = Options(
        folder=folder,
        models=tuple(model or ["tiny"]),
        host=host,
        port=port,
        token=token,
        active=active,
        max_seconds=max_seconds,
        max_queue=max_queue,
        allowed_hosts=tuple(allow_host or ()),
    )
    run(options, said=lambda address: _say(address, token))


def _say(address: str, token: str | None) -> None:
    typer.echo(f"{address}#token={token}" if token else address)
