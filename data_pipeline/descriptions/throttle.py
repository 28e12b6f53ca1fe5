"""Adaptive concurrency limit and rate limits for requests (AIMD, as in TCP congestion control)."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Throttle:
    """Limits the requests in flight and their rate, for one event loop.

    An overloaded server halves the concurrency limit; each full round of answers raises it by one (additive increase,
    multiplicative decrease). A Retry-After delay applies to all requests.

    Args:
        in_flight: maximum number of concurrent requests.
        requests_per_minute, tokens_per_minute: rate limits of the server, spread evenly over time; None for no limit.

    Raises:
        ValueError: a value is not positive.
    """

    def __init__(
        self, in_flight: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, value in {"in_flight": in_flight, **limits}.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.limit = float(in_flight)
        self._max_in_flight = in_flight
        self._running = 0
        self._changed = asyncio.Condition()
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_by_requests = self._next_by_tokens = self._not_before = 0.0
        self._tokens_per_request = 1000.0  # running mean over the answers; the value here is a first guess
        self._halved_at = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits until a request may start; the request counts as in flight until the block ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._running < max(1, int(self.limit)))
            self._running += 1
        try:
            while (start := max(self._not_before, self._next_by_requests, self._next_by_tokens)) > time.monotonic():
                await asyncio.sleep(start - time.monotonic())
            now = time.monotonic()
            self._next_by_requests = max(self._next_by_requests, now) + self._seconds_per_request
            self._next_by_tokens = max(self._next_by_tokens, now) + self._seconds_per_token * self._tokens_per_request
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify(2)  # the limit may have grown by one meanwhile

    def answered(self, tokens: int) -> None:
        """Records an answer: corrects the token budget by its actual tokens and raises the concurrency limit."""
        self._next_by_tokens += self._seconds_per_token * (tokens - self._tokens_per_request)
        self._tokens_per_request += 0.1 * (tokens - self._tokens_per_request)
        self.limit = min(self._max_in_flight, self.limit + 1 / max(1.0, self.limit))

    def overloaded(self, retry_after: float | None) -> None:
        """Records a rate-limit response: halves the concurrency limit and delays all requests by `retry_after` s."""
        now = time.monotonic()
        if now - self._halved_at > 1.0:  # all requests in flight report the same overload; halve once
            self._halved_at = now
            self.limit = max(1.0, self.limit / 2)
        if retry_after is not None:
            self._not_before = max(self._not_before, now + retry_after)
