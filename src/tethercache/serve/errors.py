"""What clients are told when something cannot be, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

_CODES = {
    400: "invalid_value",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "not_now",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    429: "queue_full",
    503: "not_ready",
    507: "disk_full",
}


class ApiError(Exception):
    """A refusal.

    Args:
        status: of HTTP.
        message: for a person: what is wrong and what to do.
        param: the field that is wrong.
        code: for programs; None: that of the status.
        headers: further ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or _CODES.get(status, "failed")
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What is answered."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, self.status, self.headers)


def not_found(what: str = "video") -> ApiError:
    """There is no such thing."""
    return ApiError(404, f"there is no such {what}")
