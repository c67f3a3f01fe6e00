"""Who may call: before anything else looks at a request.

* `Host` must be the loopback, an address in digits, or an allowed name: so no page of somebody
  else, whose name resolves to this machine, gets an answer (DNS rebinding).
* `Origin`, where there is one, must be this server: so no page of somebody else posts or opens a
  WebSocket.
* With a token, everything but the page itself wants it, as a bearer or as the cookie of a session.
* Bodies have a limit, and every answer has headers that hold the page to this server.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tethercache.serve.asking import MOST_BYTES
from tethercache.serve.errors import ApiError
from tethercache.serve.options import Options, is_loopback

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
_OPEN = ("/", "/health", "/v1/session", "/favicon.ico")
_CLOSE = {401: 4401, 403: 4403}


class Security:
    """ASGI middleware; see the module docstring.

    Args:
        app: what it stands before.
        options: of the server.
    """

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self.app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request or a WebSocket pass, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.refusal(scope["path"], headers)
        if scope["type"] == "websocket":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await _close(refusal, receive, send)
            return
        sending = _with_headers(send)
        if refusal is None:
            refusal = _too_large(headers)
        if refusal is not None:
            await refusal.response()(scope, receive, sending)
            return
        await self.app(scope, _limited(receive), sending)

    def refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Why a request is refused; None: it is not."""
        host = headers.get("host", "")
        if not self._is_ours(_name(host)):
            message = "this server is not called so; --allow-host NAME lets it be"
            return ApiError(403, message, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host):
            return ApiError(403, "pages of others may not call this server", code="wrong_origin")
        if self.options.token is None or path in _OPEN or path.startswith("/static/"):
            return None
        if self._shows_token(headers):
            return None
        message = "this server wants a token: `Authorization: Bearer TOKEN`"
        return ApiError(401, message, headers={"www-authenticate": "Bearer"})

    def _is_ours(self, name: str) -> bool:
        if not name:
            return False
        if is_loopback(name) or name.lower() in map(str.lower, self.options.allowed_hosts):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether a page of this origin is this server's, or that of an allowed name."""
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return False
        if parts.netloc.lower() == host.lower():
            return True
        return name.lower() in map(str.lower, self.options.allowed_hosts)

    def _shows_token(self, headers: Headers) -> bool:
        assert self.options.token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self.options.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(self.options))
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, session(self.options.token))


def same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that says nothing of them."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def session(token: str) -> str:
    """What the cookie of a session holds: it does not tell the token, and outlives the server."""
    return hmac.new(token.encode(), b"tethercache session", hashlib.sha256).hexdigest()


def cookie_name(options: Options) -> str:
    """Browsers send cookies to all ports of a host, so the port is in the name."""
    return f"tethercache-{options.port}"


def _name(host: str) -> str:
    """The name or address in a `Host` header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _too_large(headers: Headers) -> ApiError | None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) <= MOST_BYTES:
        return None
    return _body_refusal()


def _body_refusal() -> ApiError:
    message = f"a body must have at most {MOST_BYTES >> 10} kB"
    return ApiError(413, message, headers={"connection": "close"})


def _limited(receive: Receive) -> Receive:
    """Refuse a body that is larger than it may be, wherever it is read."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise _body_refusal()
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


async def _close(refusal: ApiError, receive: Receive, send: Send) -> None:
    """Accept a WebSocket, only to close it with a code that its client can read."""
    await receive()
    await send({"type": "websocket.accept"})
    code = _CLOSE.get(refusal.status, 4400)
    await send({"type": "websocket.close", "code": code, "reason": refusal.message[:120]})
