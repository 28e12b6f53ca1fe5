"""Concurrent requests for many images, with a clean stop on Ctrl-C, budget, limit or server failure."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass

from tqdm.auto import tqdm

from .backend import Backend, RequestFailed, ServerRefuses
from .describer import Describer, Job
from .images import ImageItem
from .store import DescriptionStore

_LINES_PER_SYNC = 64
_SECONDS_PER_SYNC = 5.0
_IN_FLIGHT_UNANSWERED, _IN_FLIGHT_UNKEPT = 2, 8  # requests until the first answer, and until the first that is kept
_REFUSALS = 3  # refused requests in a row that end a run with answers
_FAILURES, _TRIES = 20, 24  # failed requests in a row, and their tries, that end a run


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
        self._taken = self._asking = self._counted_failures = 0
        self._in_flight: dict[str, asyncio.Event] = {}
        self._turns = asyncio.Condition()
        self._has_answer = False  # of this run
        self._deferred: list[tuple[Job, str, int]] = []  # failed requests that are not committed yet
        self._consecutive = self._refusals = self._tries = 0  # failed requests and their tries since the last answer
        self._not_at_fault: list[str] = []  # reasons of failures that no image caused
        self._stopped: str | None = None
        self._at_limit: str | None = None
        self._refused = self._is_systematic = False
        self._unsynced = 0
        self._synced_at = time.monotonic()

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Describes the images. The first Ctrl-C waits for the answers in flight, the second one drops them.

        Raises:
            OSError: an answer could not be written.
        """
        store = self.describer.store
        described, failed = len(store), len(store.failures)
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
            async with self._turn():
                self._check_budget()
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
                        self._refuse(str(error))
                    return
                self._has_answer = True
                self._consecutive = self._refusals = self._tries = 0
                kept = self.describer.record(job, answer)
            self._commit_deferred()
            if kept:
                self._count(failed=False)
                return
            if reason := self.describer.rule.reason_to_stop():
                self._is_systematic = True
                self._refuse(reason)
        self._count(failed=True)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Waits until a further request may be in flight.

        Few are, until the server has answered and answers were kept, so that a systematic failure costs few requests.
        """

        def is_free() -> bool:
            most = self.backend.in_flight
            rule = self.describer.rule
            if not self._has_answer:
                most = min(most, _IN_FLIGHT_UNANSWERED)
            else:
                most = min(most, _IN_FLIGHT_UNKEPT + (0 if rule.is_failing else rule.kept))  # as in TCP's slow start
            return self._asking < most or self._stopped is not None

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
        """Keeps a failed request for later, and stops the run if too many requests fail without an answer between."""
        if error.blames_image:
            self._deferred.append((job, str(error), self.describer.store.rejected(job.key)[0]))
        else:
            self._not_at_fault.append(str(error))
        self._consecutive += 1
        self._tries += error.tries
        most = max(_FAILURES, 2 * self.backend.in_flight) if self._has_answer else _FAILURES
        if self._consecutive >= most or (not self._has_answer and self._tries >= _TRIES):
            self._refuse(f"{self._consecutive} consecutive requests failed: {error}")

    def _commit_deferred(self) -> None:
        """Commits deferred failures (such as 5xx) only after a later request succeeds.

        Otherwise an outage of the server would mark every image as failed.
        """
        for job, reason, attempts in self._deferred:
            self.describer.fail(job, reason, attempts, ["server"])
            self._count(failed=True)
        self._deferred.clear()

    def _settle_failures(self) -> None:
        """Records the failures of images at the end, but none that a setting, the key or the server caused."""
        if self._is_systematic:
            self.describer.forgive()
        if self._stopped is None:
            self.describer.commit_failures()
        if self._has_answer and not self._refused:
            self._commit_deferred()
        left = [reason for _, reason, _ in self._deferred] + self._not_at_fault
        if left and not self._refused:
            self._refuse(f"{len(left)} requests failed for a reason that no image may have caused: {left[-1]}")

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

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._stop(reason)

    def _stop(self, reason: str) -> None:
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
