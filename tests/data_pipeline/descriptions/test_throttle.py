"""The number of requests in flight follows what the server can take."""

import asyncio
import time

import pytest

from data_pipeline.descriptions.throttle import Throttle


async def start_times(throttle: Throttle, count: int, seconds: float = 0.0, tokens: int = 0) -> list[float]:
    begin, times = time.monotonic(), []

    async def request() -> None:
        async with throttle.slot():
            times.append(time.monotonic() - begin)
            await asyncio.sleep(seconds)
            throttle.answered(tokens)

    await asyncio.gather(*[request() for _ in range(count)])
    return times


def test_no_more_requests_run_than_allowed() -> None:
    times = asyncio.run(start_times(Throttle(4), 8, seconds=0.2))
    assert max(times[:4]) < 0.1 and min(times[4:]) >= 0.19


def test_requests_keep_to_a_rate() -> None:
    times = asyncio.run(start_times(Throttle(32, requests_per_minute=1200), 11))
    assert times[-1] >= 10 * 0.05 - 0.01


def test_tokens_keep_to_a_rate_by_what_answers_really_cost() -> None:
    async def rounds() -> list[float]:
        throttle = Throttle(1, tokens_per_minute=60_000)  # 100 tokens are 0.1 s
        throttle._tokens_a_request = 100.0
        return await start_times(throttle, 6, tokens=100)

    times = asyncio.run(rounds())
    assert 0.45 < times[-1] < 2


def test_overload_halves_the_limit_once_and_answers_restore_it() -> None:
    async def limits() -> list[float]:
        throttle = Throttle(32)
        for _ in range(10):  # all requests in flight hear of it
            throttle.overloaded(None)
        low = throttle.limit
        await start_times(throttle, 1000)
        return [low, throttle.limit]

    low, high = asyncio.run(limits())
    assert low == 16 and high == 32


def test_a_wait_the_server_asks_for_holds_everybody() -> None:
    async def after_a_wait() -> list[float]:
        throttle = Throttle(4)
        throttle.overloaded(0.3)
        return await start_times(throttle, 8)

    assert min(asyncio.run(after_a_wait())) >= 0.29


def test_requests_waiting_for_a_grown_limit_are_let_through() -> None:
    async def most_at_once() -> int:
        throttle = Throttle(8)
        throttle.overloaded(None)
        throttle.limit = 1.0
        running = most = 0

        async def request() -> None:
            nonlocal running, most
            async with throttle.slot():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.005)
                running -= 1
                throttle.answered(0)

        await asyncio.gather(*[request() for _ in range(200)])
        return most

    assert asyncio.run(most_at_once()) == 8


@pytest.mark.parametrize("limits", [(0,), (1, 0.0), (1, None, -5.0)])
def test_limits_must_be_positive(limits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Throttle(*limits)  # type: ignore[arg-type]
