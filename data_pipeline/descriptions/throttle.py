"""How many requests are in flight, and when the next may start."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Throttle:
    """Lets requests through as fast as the server allows, for one event loop.

    The number in flight is halved when the server says that it is too much, and grows again by one with every full
    round of answers. A wait that the server asks for holds all requests.

    Args:
        in_flight: the most requests at once.
        requests_per_minute, tokens_per_minute: limits of the server, spread evenly over the time; None is none.

    Raises:
        ValueError: a value is not positive.
    """

    def __init__(
        self, in_flight: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        for name, value in {
            "in_flight": in_flight,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
        }.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.limit = float(in_flight)
        self._most = in_flight
        self._running = 0
        self._changed = asyncio.Condition()
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_by_requests = self._next_by_tokens = self._not_before = 0.0
        self._tokens_a_request = 1000.0
        self._halved_at = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits until a request may start, and counts it as in flight meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < max(1, int(self.limit)))
            self._running += 1
        try:
            while (wait := self._start_time() - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            now = time.monotonic()
            self._next_by_requests = max(self._next_by_requests, now) + self._seconds_a_request
            self._next_by_tokens = max(self._next_by_tokens, now) + self._seconds_a_token * self._tokens_a_request
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify(2)  # the limit may have grown by one meanwhile

    def answered(self, tokens: int) -> None:
        """Tells of an answer and what it cost, in place of the estimate that the request started with."""
        self._next_by_tokens += self._seconds_a_token * (tokens - self._tokens_a_request)
        self._tokens_a_request += 0.1 * (tokens - self._tokens_a_request)
        self.limit = min(self._most, self.limit + 1 / max(1.0, self.limit))

    def overloaded(self, retry_after: float | None) -> None:
        """Tells that the server refused a request as one too many; it may say after how many seconds to come back."""
        now = time.monotonic()
        if now - self._halved_at > 1.0:  # the requests in flight all hear of the same overload
            self._halved_at = now
            self.limit = max(1.0, self.limit / 2)
        if retry_after is not None:
            self._not_before = max(self._not_before, now + retry_after)

    def _start_time(self) -> float:
        return max(self._not_before, self._next_by_requests, self._next_by_tokens)
