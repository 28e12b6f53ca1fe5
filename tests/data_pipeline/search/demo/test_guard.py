"""Limits of the demo's middleware: uploads of a visitor, and wrong passwords."""

import logging
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

import httpx  # comes with gradio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from data_pipeline.search.demo import guard
from data_pipeline.search.demo.guard import HOURLY_UPLOADS, Guard

MEGABYTE = 10**6


class Clock:
    """A clock that only `sleep` advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(guard.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(guard.asyncio, "sleep", clock.sleep)
    return clock


async def upload(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def login(request: Request) -> PlainTextResponse:
    return PlainTextResponse("", 200 if await request.body() == b"right" else 400)


@pytest.fixture
def app() -> Guard:
    routes = [Route("/upload", upload, methods=["POST"]), Route("/login", login, methods=["POST"])]
    return Guard(Starlette(routes=routes), None)


def visitor(app: Any, address: str = "10.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://demo")


async def _upload_until_refused(app: Guard, clock: Clock) -> None:
    async with visitor(app) as client, visitor(app, "10.0.0.2") as other:
        for _ in range(HOURLY_UPLOADS // 10):
            assert (await client.post("/upload", content=bytes(10 * MEGABYTE))).status_code == 200
        refused = await client.post("/upload", content=bytes(MEGABYTE))
        assert refused.status_code == 429 and f"more than {HOURLY_UPLOADS} MB" in refused.text
        assert (await other.post("/upload", content=bytes(MEGABYTE))).status_code == 200
        clock.now += 3601
        assert (await client.post("/upload", content=bytes(MEGABYTE))).status_code == 200


def test_guard_limits_the_uploads_of_a_visitor(app: Guard, clock: Clock) -> None:
    guard.asyncio.run(_upload_until_refused(app, clock))


async def _guess(app: Guard, clock: Clock) -> list[float]:
    """Returns the seconds that each of ten wrong passwords takes."""
    seconds = []
    async with visitor(app) as client:
        for _ in range(10):
            start = clock.now
            assert (await client.post("/login", content=b"wrong")).status_code == 400
            seconds.append(clock.now - start)
        async with visitor(app, "10.0.0.2") as other:
            start = clock.now
            assert (await other.post("/login", content=b"right")).status_code == 200
            assert clock.now == start
        assert (await client.post("/login", content=b"right")).status_code == 200
        start = clock.now
        assert (await client.post("/login", content=b"wrong")).status_code == 400
        assert clock.now == start  # counted anew
    return seconds


def test_guard_slows_down_and_logs_wrong_passwords(app: Guard, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert guard.asyncio.run(_guess(app, clock)) == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert caplog.messages[0] == "login: 5 wrong passwords from 10.0.0.1"
    assert len(caplog.messages) == 6
