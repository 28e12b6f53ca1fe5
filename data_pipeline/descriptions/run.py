"""Describes many images at once through a server, and stops cleanly when it must."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tqdm.auto import tqdm

from .client import Backend, RequestFailed, ServerRefuses
from .describer import Describer, Job
from .images import ImageItem

_LINES_A_SYNC = 64
_SECONDS_A_SYNC = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stopped`: why before the last image, if so; `refused`: because no request gets an answer."""

    described: int
    failed: int
    stopped: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Budget:
    """What may be spent, and how to tell. `spent` covers all answers in the store; `answer` is a guess at the first."""

    most: float
    spent: Callable[[], float]
    answer: float


class DescribeRun:
    """One pass over the images that have neither a description nor a failure yet.

    Args:
        describer: what is asked and kept.
        backend: who answers.
        limit: how many images to settle; all by default.
        budget: the run stops before the answers in the store, with those in flight, would cost more.
        total: how many images there are to settle, for the progress bar.
        progress: whether to show it.
    """

    def __init__(
        self,
        describer: Describer,
        backend: Backend,
        *,
        limit: int | None = None,
        budget: Budget | None = None,
        total: int | None = None,
        progress: bool = True,
    ) -> None:
        self._describer = describer
        self._backend = backend
        self._limit = limit
        self._budget = budget
        self._bar = tqdm(
            total=total if limit is None or total is None else min(limit, total),
            unit=" images",
            disable=not progress,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        self._taken = self._described = self._failed = self._asking = 0
        self._in_flight: dict[str, asyncio.Event] = {}
        self._unproven: list[tuple[Job, str, int]] = []
        self._stopped: str | None = None
        self._at_limit: str | None = None
        self._refused = False
        self._unsynced = 0
        self._synced_at = time.monotonic()

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Settles the images. Ctrl-C lets the requests in flight end and keeps their answers; once more drops them.

        Raises:
            OSError: an answer could not be written.
        """
        loop = asyncio.get_running_loop()
        iterator = iter(items)
        workers = [asyncio.create_task(self._work(iterator)) for _ in range(self._backend.in_flight)]
        # Off the main thread, and on Windows, Ctrl-C stops at once; what was read by then is kept there too.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGINT, self._interrupt, workers)
        try:
            await asyncio.gather(*workers)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGINT)
            if not self._refused:
                self._record_unproven()
            self._describer.store.sync()
            self._bar.close()
        return Outcome(self._described, self._failed, self._stopped or self._at_limit, self._refused)

    async def _work(self, items: Iterator[ImageItem]) -> None:
        for item in items:
            if self._describer.is_settled(item.file_path):
                continue
            if self._limit is not None and self._taken >= self._limit:
                self._at_limit = f"the limit of {self._limit} images is reached"
                return  # what was taken before is still described
            if self._stopped:
                return
            self._taken += 1
            await self._settle(item)
            await self._sync()

    async def _settle(self, item: ImageItem) -> None:
        """Describes one image, or records why not. One that the run stops in the midst of stays to be done."""
        try:
            job = await asyncio.to_thread(self._describer.job, item)
        except ValueError as error:
            self._describer.fail(item, str(error))
            self._count(failed=True)
            return
        while job.key in self._in_flight:  # the same image once more
            await self._in_flight[job.key].wait()
        if self._describer.copied(job):
            self._count(failed=False)
            return
        self._in_flight[job.key] = asyncio.Event()
        try:
            await self._ask(job)
        finally:
            self._in_flight.pop(job.key).set()

    async def _ask(self, job: Job) -> None:
        while (messages := self._describer.messages(job)) is not None:
            self._check_budget()
            if self._stopped:
                return
            self._asking += 1
            try:
                answer = await self._backend.ask(messages, self._describer.prompt.response_format)
            except RequestFailed as error:
                self._unproven.append((job, str(error), self._describer.store.rejected(job.key)[0]))
                if len(self._unproven) >= max(20, 2 * self._backend.in_flight):
                    self._refused = True
                    self._stop(f"{len(self._unproven)} images in a row got no answer: {error}")
                return
            except ServerRefuses as error:
                self._refused = True
                self._stop(str(error))
                return
            finally:
                self._asking -= 1
            kept = self._describer.record(job, answer)
            self._record_unproven()
            if kept:
                self._count(failed=False)
                return
        self._count(failed=True)

    def _record_unproven(self) -> None:
        """Records failures by the server's fault, once another answer shows that the server itself is well."""
        for job, reason, attempts in self._unproven:
            self._describer.fail(job, reason, attempts, ["server"])
            self._count(failed=True)
        self._unproven.clear()

    def _check_budget(self) -> None:
        if self._budget is None:
            return
        store = self._describer.store
        spent = self._budget.spent()
        answer = spent / store.answers if store.answers >= 20 else self._budget.answer
        if spent + (self._asking + 1) * answer > self._budget.most:
            self._stop(f"the next answer might exceed the most that may be spent: {spent:.4f} of {self._budget.most:g}")

    def _interrupt(self, workers: list[asyncio.Task[None]]) -> None:
        if self._stopped:
            for worker in workers:
                worker.cancel()
        else:
            self._stop("interrupted")
            self._bar.write("waiting for the answers to come; Ctrl-C once more gives them up", file=sys.stderr)

    def _stop(self, reason: str) -> None:
        self._stopped = self._stopped or reason

    def _count(self, failed: bool) -> None:
        self._failed += failed
        self._described += not failed
        self._unsynced += 1
        if self._bar.disable:
            return
        store = self._describer.store
        tokens = sum(store.prompt_tokens.values()) + sum(store.completion_tokens.values())
        cost = f", cost {self._budget.spent():.2f}" if self._budget else ""
        self._bar.set_postfix_str(f"{self._failed} failed, {tokens} tokens{cost}", refresh=False)
        self._bar.update()

    async def _sync(self) -> None:
        """Syncs the files now and then, in a thread."""
        if self._unsynced < _LINES_A_SYNC and time.monotonic() - self._synced_at < _SECONDS_A_SYNC:
            return
        self._unsynced, self._synced_at = 0, time.monotonic()
        await asyncio.to_thread(self._describer.store.sync)
