"""Concurrent requests for many images, with a clean stop on Ctrl-C, budget, limit or server failure."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from tqdm.auto import tqdm

from .backend import Backend, RequestFailed, ServerRefuses
from .costs import Budget
from .describer import Describer, Job
from .images import ImageItem
from .store import DescriptionStore

_LINES_PER_SYNC = 64
_SECONDS_PER_SYNC = 5.0
_IN_FLIGHT_UNANSWERED, _IN_FLIGHT_UNKEPT = 2, 8  # requests until the first answer, and until the first that is kept
_PREPARED = 8  # images that are read while all requests are in flight
_REFUSALS = 3  # refused requests in a row that end a run with answers
_FAILURES, _TRIES = 20, 24  # failed requests in a row, and their tries, that end a run


@dataclass(frozen=True)
class Outcome:
    """Result of a run. `stopped`: the reason for an early stop; `refused`: whether the server was that reason."""

    described: int
    failed: int
    stopped: str | None = None
    refused: bool = False


def progress_text(store: DescriptionStore, failed: int, budget: Budget | None) -> str:
    """Formats failures, tokens and cost for a progress bar."""
    tokens = store.tokens
    return f"{failed} failed, {tokens['prompt_tokens'] + tokens['completion_tokens']} tokens" + (
        f", cost {budget.spent():.2f}" if budget else ""
    )


class DescribeRun:
    """One pass over the images that have neither a description nor a recorded failure.

    Args:
        describer: prepares requests and records answers; it has the options of the run.
        backend: answers the requests.
        budget: the run stops before the stored answers and those in flight could exceed it.
        total: number of images to describe, for the progress bar.
    """

    def __init__(
        self, describer: Describer, backend: Backend, budget: Budget | None = None, total: int | None = None
    ) -> None:
        self.describer = describer
        self.backend = backend
        self.budget = budget
        self._limit = describer.options.limit
        self._bar = tqdm(
            total=total if self._limit is None or total is None else min(self._limit, total),
            unit=" images",
            disable=not describer.options.progress,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        self._taken = self._asking = self._counted_failures = 0
        self._in_flight: dict[str, asyncio.Event] = {}
        self._turns = asyncio.Condition()
        self._has_answer = False  # of this run
        self._consecutive = self._refusals = self._tries = 0  # failed requests and their tries since the last answer
        self._not_at_fault: list[str] = []  # reasons of failures that no image caused
        self._stopped: str | None = None
        self._at_limit: str | None = None
        self._refused = self._is_systematic = False
        self._unsynced = 0
        self._synced_at = time.monotonic()

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Describes the images. The first Ctrl-C waits for the answers in flight, the second one drops them."""
        store = self.describer.store
        described, failed = len(store), len(store.failures)
        loop, iterator = asyncio.get_running_loop(), iter(items)
        workers = [asyncio.create_task(self._work(iterator)) for _ in range(self.backend.in_flight + _PREPARED)]
        # Signal handlers exist only on the main thread and not on Windows. Elsewhere Ctrl-C stops at once; the answers
        # recorded until then are kept.
        no_handlers = (NotImplementedError, RuntimeError, ValueError)
        with contextlib.suppress(*no_handlers):
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
            with contextlib.suppress(*no_handlers):
                loop.remove_signal_handler(signal.SIGINT)
            self._settle_failures()
            store.sync()
            self._bar.close()
        stopped = self._stopped or self._at_limit
        return Outcome(len(store) - described, len(store.failures) - failed, stopped, self._refused)

    async def _work(self, items: Iterator[ImageItem]) -> None:
        """Worker: describes images from the shared iterator until it ends or the run stops."""
        for item in items:
            if self.describer.is_settled(item.file_path):
                continue
            if self._limit is not None and self._taken >= self._limit:
                self._at_limit = f"the limit of {self._limit} images is reached"
                return  # images in other workers are still described
            if self._stopped:
                return
            self._taken += 1
            await self._settle(item)
            await self._sync()

    async def _settle(self, item: ImageItem) -> None:
        """Describes one image or records its failure; an image interrupted by a stop remains pending."""
        try:
            job = await asyncio.to_thread(self.describer.job, item)
        except ValueError as error:
            self.describer.fail(item, str(error))
            self._count(failed=True)
            return
        while job.key in self._in_flight:  # an identical image is being described; its answer is copied below
            await self._in_flight[job.key].wait()
        if self.describer.copied(job):
            self._count(failed=False)
            return
        self._in_flight[job.key] = asyncio.Event()
        try:
            await self._ask(job)
        finally:
            self._in_flight.pop(job.key).set()

    async def _ask(self, job: Job) -> None:
        """Requests answers for a job until one is kept or the attempts are used up."""
        while (messages := self.describer.messages(job)) is not None:
            async with self._turn():
                if self.budget is not None and (reason := self.budget.reason_to_stop(self._asking + 1)):
                    self._stop(reason)
                if self._stopped:
                    return
                try:
                    answer = await self.backend.ask(messages, self.describer.prompt.response_format)
                except RequestFailed as error:
                    self._defer(job, error)
                    return
                except ServerRefuses as error:
                    self._refusals += 1
                    self._not_at_fault.append(str(error))
                    if not self._has_answer or self._refusals == _REFUSALS:
                        self._stop(str(error), refused=True)
                    return
                self._has_answer = True
                self._consecutive = self._refusals = self._tries = 0
                kept = self.describer.record(job, answer)
            if kept:
                self._count(failed=False)
                return
            if reason := self.describer.rule.reason_to_stop():
                self._is_systematic = True
                self._stop(reason, refused=True)
        self._count(failed=True)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Waits until a further request may be in flight.

        Few are, until the server has answered and answers were kept, so that a systematic failure costs few requests.
        """

        def is_free() -> bool:
            rule, most = self.describer.rule, _IN_FLIGHT_UNANSWERED
            if self._has_answer:
                most = _IN_FLIGHT_UNKEPT + (0 if rule.is_failing else rule.kept)  # as in TCP's slow start
            return self._asking < min(most, self.backend.in_flight) or self._stopped is not None

        async with self._turns:
            await self._turns.wait_for(is_free)
            self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            async with self._turns:
                self._turns.notify_all()

    def _defer(self, job: Job, error: RequestFailed) -> None:
        """Withholds a failed request, and stops the run if too many requests fail without an answer between."""
        if error.blames_image:
            self.describer.withhold(job, str(error), ["server"])
            self._count(failed=True)
        else:
            self._not_at_fault.append(str(error))
        self._consecutive += 1
        self._tries += error.tries
        most = max(_FAILURES, 2 * self.backend.in_flight) if self._has_answer else _FAILURES
        if self._consecutive >= most or (not self._has_answer and self._tries >= _TRIES):
            self._stop(f"{self._consecutive} consecutive requests failed: {error}", refused=True)

    def _settle_failures(self) -> None:
        """Records the failures of images at the end, but none that a setting, the key or the server caused."""
        if self._is_systematic:
            self.describer.forgive()
        left = self._not_at_fault
        if not self._has_answer:
            left = self.describer.withheld() + left
        elif not self._refused and not (self._stopped and self.describer.rule.is_failing):
            self.describer.commit_failures()
        if left and not self._refused:
            self._stop(
                f"{len(left)} requests failed for a reason that no image may have caused: {left[-1]}", refused=True
            )

    def _interrupt(self, workers: list[asyncio.Task[None]]) -> None:
        if self._stopped:
            for worker in workers:
                worker.cancel()
        else:
            self._stop("interrupted")
            self._bar.write("waiting for the answers in flight; press Ctrl-C again to drop them", file=sys.stderr)

    def _stop(self, reason: str, refused: bool = False) -> None:
        self._refused |= refused
        self._stopped = self._stopped or reason

    def _count(self, failed: bool) -> None:
        self._counted_failures += failed
        self._unsynced += 1
        if not self._bar.disable:
            text = progress_text(self.describer.store, self._counted_failures, self.budget)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    async def _sync(self) -> None:
        """Syncs the files in a thread, every few lines or seconds."""
        if self._unsynced < _LINES_PER_SYNC and time.monotonic() - self._synced_at < _SECONDS_PER_SYNC:
            return
        self._unsynced, self._synced_at = 0, time.monotonic()
        await asyncio.to_thread(self.describer.store.sync)
