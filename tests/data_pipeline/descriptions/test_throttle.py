"""The number of requests in flight follows the capacity of the server."""

import asyncio
import time

import pytest

from data_pipeline.descriptions.throttle import Throttle


async def start_times(throttle: Throttle, count: int, seconds: float = 0.0, tokens: int = 0) -> tuple[list[float], int]:
    """Start times of concurrent requests, and the largest number in flight."""
    begin, times = time.monotonic(), []
    running = most = 0

    async def request() -> None:
        nonlocal running, most
        async with throttle.slot():
            running += 1
            most = max(most, running)
            times.append(time.monotonic() - begin)
            await asyncio.sleep(seconds)
            running -= 1
            throttle.answered(tokens)

    await asyncio.gather(*[request() for _ in range(count)])
    return times, most


def test_slot_limits_requests_in_flight() -> None:
    times, most = asyncio.run(start_times(Throttle(4), 8, seconds=0.2))
    assert most == 4 and max(times[:4]) < 0.1 and min(times[4:]) >= 0.19


def test_slot_respects_requests_per_minute() -> None:
    times, _ = asyncio.run(start_times(Throttle(32, requests_per_minute=1200), 11))
    assert times[-1] >= 10 * 0.05 - 0.01


def test_slot_respects_tokens_per_minute_by_actual_tokens() -> None:
    async def rounds() -> list[float]:
        throttle = Throttle(1, tokens_per_minute=60_000)  # 100 tokens take 0.1 s
        throttle._tokens_per_request = 100.0
        return (await start_times(throttle, 6, tokens=100))[0]

    assert 0.45 < asyncio.run(rounds())[-1] < 2


def test_overloaded_halves_the_limit_once_and_answers_restore_it() -> None:
    async def limits() -> list[float]:
        throttle = Throttle(32)
        for _ in range(10):  # all requests in flight report the same overload
            throttle.overloaded(None)
        low = throttle.limit
        await start_times(throttle, 1000)
        return [low, throttle.limit]

    assert asyncio.run(limits()) == [16, 32]


def test_overloaded_delays_all_requests_by_retry_after() -> None:
    async def after_a_wait() -> list[float]:
        throttle = Throttle(4)
        throttle.overloaded(0.3)
        return (await start_times(throttle, 8))[0]

    assert min(asyncio.run(after_a_wait())) >= 0.29


def test_answered_wakes_requests_that_wait_for_the_limit() -> None:
    async def most_at_once() -> int:
        throttle = Throttle(8)
        throttle.overloaded(None)
        throttle.limit = 1.0
        return (await start_times(throttle, 200, seconds=0.005))[1]

    assert asyncio.run(most_at_once()) == 8


@pytest.mark.parametrize("limits", [(0,), (1, 0.0), (1, None, -5.0)])
def test_throttle_rejects_limits_that_are_not_positive(limits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Throttle(*limits)  # type: ignore[arg-type]
