"""ASGI middleware of the demo: Host and Origin headers, limits of requests and uploads, wrong passwords."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_UPLOAD = 10  # MB
HOURLY_UPLOADS = 100  # MB of one visitor
_HOUR = 3600.0  # seconds
_FREE_TRIES, _LONGEST_WAIT = 5, 60.0  # wrong passwords without a delay; seconds
_VISITORS = 10_000  # addresses that are remembered
_logger = logging.getLogger(__name__)


@dataclass
class _Visitor:
    """What one network address did within the last hour."""

    uploads: deque[tuple[float, int]] = field(default_factory=deque)  # time and bytes
    wrong: int = 0  # wrong passwords since the last right one
    last: float = field(default_factory=time.monotonic)  # of the last wrong password
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one try of a password at a time

    def uploaded(self) -> int:
        """Returns the bytes of the last hour."""
        while self.uploads and self.uploads[0][0] < time.monotonic() - _HOUR:
            self.uploads.popleft()
        return sum(size for _, size in self.uploads)


class Guard:
    """Refuses requests of other sites, oversized bodies and too many uploads, and slows down guessed passwords.

    Args:
        app: the app behind it.
        hosts: accepted values of the Host header, without the port; None for any. A page of another site cannot read
            this server's answers by a domain name that resolves to loopback (DNS rebinding), because the browser sends
            that name.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None) -> None:
        self._app, self._hosts = app, hosts
        self._visitors: dict[str, _Visitor] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a request, or answers it with 403 (Host, Origin), 413 (size) or 429 (uploads)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        visitor = self._visitor(scope)
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        refused = self._refused(headers) or (_too_many(visitor, headers) if is_upload else None)
        if refused is not None:
            await refused(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login"):
            await self._login(visitor, scope, receive, send)
        else:
            await self._app(scope, _limited(receive, visitor if is_upload else None), send)

    def _refused(self, headers: dict[str, str]) -> PlainTextResponse | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host.rpartition(":")[0] or host
        if self._hosts is not None and name not in self._hosts:
            return PlainTextResponse("this demo accepts requests to loopback only\n", 403)
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("this demo accepts requests of its own page only\n", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > (LARGEST_UPLOAD + 1) * 10**6:
            return PlainTextResponse(f"more than {LARGEST_UPLOAD} MB\n", 413)
        return None

    async def _login(self, visitor: _Visitor, scope: Scope, receive: Receive, send: Send) -> None:
        """Forwards a login, after a delay that doubles with each wrong password after the fifth."""
        async with visitor.lock:
            if time.monotonic() - visitor.last > _HOUR:
                visitor.wrong = 0
            if visitor.wrong >= _FREE_TRIES:
                await asyncio.sleep(min(2.0 ** (visitor.wrong - _FREE_TRIES), _LONGEST_WAIT))
            status = 0

            async def watched(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            await self._app(scope, _limited(receive, None), watched)
            if status < 400:
                visitor.wrong = 0
                return
            visitor.wrong, visitor.last = visitor.wrong + 1, time.monotonic()
            if visitor.wrong >= _FREE_TRIES:
                address = (scope.get("client") or ("unknown",))[0]
                _logger.warning("login: %d wrong passwords from %s", visitor.wrong, address)

    def _visitor(self, scope: Scope) -> _Visitor:
        address = (scope.get("client") or ("unknown",))[0]
        if len(self._visitors) > _VISITORS:
            self._visitors.pop(next(iter(self._visitors)))
        return self._visitors.setdefault(address, _Visitor())


def _too_many(visitor: _Visitor, headers: dict[str, str]) -> PlainTextResponse | None:
    """Refuses an upload beyond the visitor's limit."""
    if visitor.uploaded() + int(headers.get("content-length", "0")) <= HOURLY_UPLOADS * 10**6:
        return None
    return PlainTextResponse(f"more than {HOURLY_UPLOADS} MB of uploads within an hour: try again later\n", 429)


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
