"""ASGI middleware of the servers: Host and Origin headers, tokens, limits of requests, wrong passwords."""

import asyncio
import hmac
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_UPLOAD = 10  # MB
HOURLY_UPLOADS = 100  # MB of one visitor
_HOUR = 3600.0  # seconds
_FREE_TRIES, _LONGEST_WAIT = 5, 60.0  # wrong passwords without a delay; seconds
_VISITORS = 10_000  # addresses that are remembered
OPEN_PATHS = ("/health", "/docs", "/openapi.json")  # need no token: they show nothing of the gallery
_logger = logging.getLogger(__name__)


@dataclass
class _Visitor:
    """What one network address did within the last hour."""

    uploads: deque[tuple[float, int]] = field(default_factory=deque)  # time and bytes
    running: int = 0  # requests
    wrong: int = 0  # wrong passwords since the last right one
    last: float = field(default_factory=time.monotonic)  # of the last wrong password
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one try of a password at a time

    def uploaded(self) -> int:
        """Returns the bytes of the last hour."""
        while self.uploads and self.uploads[0][0] < time.monotonic() - _HOUR:
            self.uploads.popleft()
        return sum(size for _, size in self.uploads)


class Guard:
    """Refuses requests of other sites, without the token, too large or too many, and slows down guessed passwords.

    A request is refused before its body is read.

    Args:
        app: the app behind it.
        hosts: accepted values of the Host header, without the port; None for any. A page of another site cannot read
            this server's answers by a domain name that resolves to loopback (DNS rebinding), because the browser sends
            that name.
        token: bearer token of each request, except to `OPEN_PATHS`; None for no token.
        most: requests at the same time; half of them for one visitor.
        headers: headers that are added to each response.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: tuple[str, ...] | None,
        token: str | None = None,
        most: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._app, self._hosts, self._token, self._most = app, hosts, token, most
        self._headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._visitors: dict[str, _Visitor] = {}
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or answers it with 401 (token), 403 (Host, Origin), 413 (size), 429 or 503 (number)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        visitor, send = self._visitor(scope), _adding(self._headers, send)
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        refused = self._refused(headers) or self._busy(visitor) or (_too_many(visitor, headers) if is_upload else None)
        self._running, visitor.running = self._running + 1, visitor.running + 1
        try:
            if refused is None and not await self._is_authorized(visitor, scope, headers):
                refused = _refusal("give the token: Authorization: Bearer TOKEN", 401, {"WWW-Authenticate": "Bearer"})
            if refused is not None:
                await refused(scope, receive, send)
            elif scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login"):
                await self._login(visitor, scope, receive, send)
            else:
                await self._app(scope, _limited(receive, visitor if is_upload else None), send)
        finally:
            self._running, visitor.running = self._running - 1, visitor.running - 1

    def _refused(self, headers: dict[str, str]) -> JSONResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] or host
        if self._hosts is not None and name not in self._hosts:
            return _refusal("this server accepts requests to loopback only", 403)
        if origin is not None and urlsplit(origin).netloc != host:
            return _refusal("this server accepts requests of its own page only", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > (LARGEST_UPLOAD + 1) * 10**6:
            return _refusal(f"more than {LARGEST_UPLOAD} MB", 413)
        return None

    def _busy(self, visitor: _Visitor) -> JSONResponse | None:
        if self._token is not None and visitor.wrong >= _FREE_TRIES and visitor.lock.locked():
            return _refusal("too many wrong tokens: try again later", 429, {"Retry-After": f"{_LONGEST_WAIT:.0f}"})
        if self._most is None or (self._running < self._most and visitor.running < self._most // 2):
            return None
        status = 503 if self._running >= self._most else 429
        return _refusal("too many requests at the same time: try again later", status, {"Retry-After": "1"})

    async def _is_authorized(self, visitor: _Visitor, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether a request has the token; as a login, a wrong token is slowed down."""
        if self._token is None or scope["path"] in OPEN_PATHS:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self._token.encode())
        is_right = is_right and scheme.lower() == "bearer"

        async def attempt() -> bool:
            return is_right

        return (is_right and not visitor.wrong) or await self._try(visitor, scope, attempt)

    async def _login(self, visitor: _Visitor, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a login."""

        async def attempt() -> bool:
            status = 0

            async def watched(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            await self._app(scope, _limited(receive, None), watched)
            return status < 400

        await self._try(visitor, scope, attempt)

    async def _try(self, visitor: _Visitor, scope: Scope, attempt: Callable[[], Awaitable[bool]]) -> bool:
        """Makes an attempt after a delay that doubles with each wrong one after the fifth; returns whether it is right.

        A right one waits as well, since it would otherwise be recognized by its speed.
        """
        async with visitor.lock:
            if time.monotonic() - visitor.last > _HOUR:
                visitor.wrong = 0
            if visitor.wrong >= _FREE_TRIES:
                await asyncio.sleep(min(2.0 ** (visitor.wrong - _FREE_TRIES), _LONGEST_WAIT))
            if await attempt():
                visitor.wrong = 0
                return True
            visitor.wrong, visitor.last = visitor.wrong + 1, time.monotonic()
            if visitor.wrong >= _FREE_TRIES:
                address = (scope.get("client") or ("unknown",))[0]
                _logger.warning("login: %d wrong passwords or tokens from %s", visitor.wrong, address)
            return False

    def _visitor(self, scope: Scope) -> _Visitor:
        address = (scope.get("client") or ("unknown",))[0]
        if len(self._visitors) > _VISITORS:
            self._visitors.pop(next(iter(self._visitors)))
        return self._visitors.setdefault(address, _Visitor())


def _refusal(reason: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": reason}, status, headers)


def _adding(headers: list[tuple[bytes, bytes]], send: Send) -> Send:
    """Wraps `send` to add headers to the response."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sender


def _too_many(visitor: _Visitor, headers: dict[str, str]) -> JSONResponse | None:
    """Refuses an upload beyond the visitor's limit."""
    if visitor.uploaded() + int(headers.get("content-length", "0")) <= HOURLY_UPLOADS * 10**6:
        return None
    reason = f"more than {HOURLY_UPLOADS} MB of uploads within an hour: try again later"
    return _refusal(reason, 429, {"Retry-After": f"{_HOUR:.0f}"})


def _limited(receive: Receive, visitor: _Visitor | None) -> Receive:
    """Wraps `receive` to count an upload, and to disconnect a chunked body without a Content-Length at the limit."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        size = len(message.get("body", b""))
        received += size
        if visitor is not None and size:
            visitor.uploads.append((time.monotonic(), size))
        return message if received <= (LARGEST_UPLOAD + 1) * 10**6 else {"type": "http.disconnect"}

    return limited
