"""The HTTP application: routes, errors, the page; `serve` runs it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from tethercache import __version__
from tethercache.files import DiskFullError
from tethercache.serve import about, live, videos, views
from tethercache.serve.asking import model_settings
from tethercache.serve.desk import Desk, FullQueueError
from tethercache.serve.errors import ApiError
from tethercache.serve.options import Options
from tethercache.serve.security import Security
from tethercache.serve.workshop import State, Workshop
from tethercache.text import reason

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "static"


def application(options: Options, desk: Desk, workshop: Workshop) -> FastAPI:
    """The application.

    Args:
        options: of the server.
        desk: its videos.
        workshop: makes them; it is started and closed with the application.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        workshop.start()
        try:
            yield
        finally:
            workshop.close()

    app = FastAPI(
        title="TetherCache",
        version=__version__,
        description="Videos as jobs, after OpenAI's /v1/videos; see docs/serve.md.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.state.options, app.state.desk, app.state.workshop = options, desk, workshop
    app.state.sessions = set()
    for part in (videos, views, about, live):
        app.include_router(part.router)
    _add_health(app, workshop)
    _add_page(app)
    _add_errors(app)
    app.add_middleware(Security, options=options)
    for model in options.models:
        model_settings(model)
    return app


def _add_health(app: FastAPI, workshop: Workshop) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> JSONResponse:
        """Whether videos can be made: 503 while the model is loaded or gone."""
        ready = workshop.state is State.READY
        about = {"status": workshop.state.value, "version": __version__, **workshop.about}
        return JSONResponse(about, 200 if ready else 503)


def _add_page(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})


def _add_errors(app: FastAPI) -> None:
    """Every failure is answered in the shape of OpenAI's errors."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(FullQueueError)
    async def full(request: Request, error: FullQueueError) -> Response:
        return ApiError(429, f"{error}; try again later", headers={"retry-after": "10"}).response()

    @app.exception_handler(DiskFullError)
    async def disk(request: Request, error: DiskFullError) -> Response:
        return ApiError(507, f"the disk of the server is full: {reason(error)}").response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = dict(error.errors()[0])
        param = str(first["loc"][-1])
        return ApiError(400, f"`{param}`: {first['msg']}", param).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        message = "there is nothing here" if error.status_code == 404 else str(error.detail)
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        message = "the server has failed; its log says more"
        return ApiError(500, message, code="failed").response()
