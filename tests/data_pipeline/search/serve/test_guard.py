"""Limits of the middleware of demo and service: uploads, requests at the same time, wrong passwords and tokens."""

import logging
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the demo needs gradio: pip install -e '.[demo]'")

import httpx  # comes with gradio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from data_pipeline.search.serve import guard
from data_pipeline.search.serve.guard import HOURLY_UPLOADS, Guard

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
    assert caplog.messages[0] == "login: 5 wrong passwords or tokens from 10.0.0.1"
    assert len(caplog.messages) == 6


async def _fill(go_on: guard.asyncio.Event) -> list[int]:
    """Sends requests that wait for `go_on` up to the limits; returns the statuses of further ones and of these."""

    async def wait(request: Request) -> PlainTextResponse:
        await go_on.wait()
        return PlainTextResponse("")

    app = Guard(Starlette(routes=[Route("/", wait)]), None, most=4)
    async with visitor(app) as client, visitor(app, "10.0.0.2") as other, visitor(app, "10.0.0.3") as third:
        tasks, refused = [], []
        for number, each in enumerate((client, client, other, other), start=1):
            tasks.append(guard.asyncio.create_task(each.get("/")))
            while app._running < number:
                await guard.asyncio.sleep(0)
            if number % 2 == 0:
                refused.append(await (client if number == 2 else third).get("/"))
        go_on.set()
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        return [answer.status_code for answer in (*refused, *[await task for task in tasks], await third.get("/"))]


def test_guard_limits_requests_at_the_same_time() -> None:
    assert guard.asyncio.run(_fill(guard.asyncio.Event())) == [429, 503, 200, 200, 200, 200, 200]


async def _guess_tokens(clock: Clock) -> list[float]:
    """Returns the seconds that each of eight wrong tokens and the right one take."""
    app = Guard(Starlette(routes=[Route("/upload", upload, methods=["POST"])]), None, token="the right token")
    seconds = []
    async with visitor(app) as client, visitor(app, "10.0.0.2") as other:
        for token in [*["wrong"] * 8, "the right token"]:
            start, headers = clock.now, {"Authorization": f"bearer {token}"}
            answer = await client.post("/upload", headers=headers)
            assert answer.status_code == (401 if token == "wrong" else 200)
            seconds.append(clock.now - start)
            if len(seconds) == 8:
                async with app._visitors["10.0.0.1"].lock:  # another attempt of this address waits
                    assert (await client.post("/upload", headers=headers)).status_code == 429
            assert (await other.post("/upload", headers={"Authorization": "Bearer the right token"})).status_code == 200
    return seconds


def test_guard_slows_down_wrong_tokens(clock: Clock) -> None:
    assert guard.asyncio.run(_guess_tokens(clock)) == [0, 0, 0, 0, 0, 1, 2, 4, 8]
