"""Concurrent requests for many images, with a clean stop on Ctrl-C, budget, limit or server failure."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass

from tqdm.auto import tqdm

from .client import Backend, RequestFailed, ServerRefuses
from .describer import Describer, Job
from .images import ImageItem
from .store import DescriptionStore

_LINES_PER_SYNC = 64
_SECONDS_PER_SYNC = 5.0


@dataclass(frozen=True)
class Outcome:
    """Result of a run. `stopped`: the reason for an early stop; `refused`: whether the server was that reason."""

    described: int
    failed: int
    stopped: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Budget:
    """Maximum cost of an output.

    Attributes:
        most: the maximum.
        spent: returns the cost of all answers in the store.
        answer: estimated cost of one answer.
    """

    most: float
    spent: Callable[[], float]
    answer: float

    def reason_to_stop(self, requests: int, answer: float | None = None) -> str | None:
        """Returns a message if so many further requests, `answer` or the estimate each, could exceed the maximum."""
        spent = self.spent()
        if spent + requests * (self.answer if answer is None else answer) <= self.most:
            return None
        return f"the next answer could exceed the maximum cost: {spent:.4f} of {self.most:g} are spent"


def progress_text(store: DescriptionStore, failed: int, budget: Budget | None) -> str:
    """Formats failures, tokens and cost for a progress bar."""
    tokens = sum(store.prompt_tokens.values()) + sum(store.completion_tokens.values())
    return f"{failed} failed, {tokens} tokens" + (f", cost {budget.spent():.2f}" if budget else "")


@dataclass
class DescribeRun:
    """One pass over the images that have neither a description nor a recorded failure.

    Args:
        describer: prepares requests and records answers.
        backend: answers the requests.
        limit: maximum number of images; all by default.
        budget: the run stops before the stored answers and those in flight could exceed it.
        total: number of images to describe, for the progress bar.
        progress: whether to show the progress bar.
    """

    describer: Describer
    backend: Backend
    _: KW_ONLY
    limit: int | None = None
    budget: Budget | None = None
    total: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        self._bar = tqdm(
            total=self.total if self.limit is None or self.total is None else min(self.limit, self.total),
            unit=" images",
            disable=not self.progress,
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
        )
        self._taken = self._described = self._failed = self._asking = 0
        self._in_flight: dict[str, asyncio.Event] = {}
        self._deferred: list[tuple[Job, str, int]] = []  # failed requests that are not committed yet
        self._stopped: str | None = None
        self._at_limit: str | None = None
        self._refused = False
        self._unsynced = 0
        self._synced_at = time.monotonic()

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Describes the images. The first Ctrl-C waits for the answers in flight, the second one drops them.

        Raises:
            OSError: an answer could not be written.
        """
        loop = asyncio.get_running_loop()
        iterator = iter(items)
        workers = [asyncio.create_task(self._work(iterator)) for _ in range(self.backend.in_flight)]
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
            if not self._refused:
                self._commit_deferred()
            self.describer.store.sync()
            self._bar.close()
        return Outcome(self._described, self._failed, self._stopped or self._at_limit, self._refused)

    async def _work(self, items: Iterator[ImageItem]) -> None:
        """Worker: describes images from the shared iterator until it ends or the run stops."""
        for item in items:
            if self.describer.is_settled(item.file_path):
                continue
            if self.limit is not None and self._taken >= self.limit:
                self._at_limit = f"the limit of {self.limit} images is reached"
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
            self._check_budget()
            if self._stopped:
                return
            self._asking += 1
            try:
                answer = await self.backend.ask(messages, self.describer.prompt.response_format)
            except RequestFailed as error:
                self._deferred.append((job, str(error), self.describer.store.rejected(job.key)[0]))
                if len(self._deferred) >= max(20, 2 * self.backend.in_flight):
                    self._refused = True
                    self._stop(f"{len(self._deferred)} consecutive requests failed: {error}")
                return
            except ServerRefuses as error:
                self._refused = True
                self._stop(str(error))
                return
            finally:
                self._asking -= 1
            kept = self.describer.record(job, answer)
            self._commit_deferred()
            if kept:
                self._count(failed=False)
                return
        self._count(failed=True)

    def _commit_deferred(self) -> None:
        """Commits deferred failures (such as 5xx) only after a later request succeeds.

        Otherwise an outage of the server would mark every image as failed.
        """
        for job, reason, attempts in self._deferred:
            self.describer.fail(job, reason, attempts, ["server"])
            self._count(failed=True)
        self._deferred.clear()

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        answers = self.describer.store.answers
        mean = self.budget.spent() / answers if answers >= 20 else None
        if reason := self.budget.reason_to_stop(self._asking + 1, mean):
            self._stop(reason)

    def _interrupt(self, workers: list[asyncio.Task[None]]) -> None:
        if self._stopped:
            for worker in workers:
                worker.cancel()
        else:
            self._stop("interrupted")
            self._bar.write("waiting for the answers in flight; press Ctrl-C again to drop them", file=sys.stderr)

    def _stop(self, reason: str) -> None:
        self._stopped = self._stopped or reason

    def _count(self, failed: bool) -> None:
        self._failed += failed
        self._described += not failed
        self._unsynced += 1
        if not self._bar.disable:
            text = progress_text(self.describer.store, self._failed, self.budget)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    async def _sync(self) -> None:
        """Syncs the files in a thread, every few lines or seconds."""
        if self._unsynced < _LINES_PER_SYNC and time.monotonic() - self._synced_at < _SECONDS_PER_SYNC:
            return
        self._unsynced, self._synced_at = 0, time.monotonic()
        await asyncio.to_thread(self.describer.store.sync)
