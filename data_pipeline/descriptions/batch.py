"""The Batch API: files of requests that the server answers within a day at a lower price.

Beside an output `descriptions.jsonl` the folder `descriptions.batch` holds what is under way: `state.json`, and for
each chunk its requests and the images they are for. It is gone once all is collected. A process may be killed at any
moment: the next one finds every batch that was submitted, by the chunk's name in the batch's metadata.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import openai
from tqdm.auto import tqdm

from .batch_files import BatchFiles, Chunk
from .client import ChatClient, ServerRefuses
from .describer import Describer, Job
from .images import ImageItem
from .run import Budget, Outcome

_ENDED = ("completed", "failed", "expired", "cancelled")
_QUEUE_IS_FULL = "token_limit_exceeded"


class BatchRun:
    """Describes images through the Batch API: writes, submits, polls, collects, and asks again for rejected answers.

    Args:
        describer: what is asked and kept.
        client: the server.
        limit: how many images to send; all by default.
        budget: nothing is submitted that might exceed it.
        max_requests, max_bytes: bounds on a file of requests; the service of OpenAI takes 50,000 and 200 MB. Batches
            that do not fit into its queue wait until others have ended.
        poll_seconds: how long to wait between two looks at what is under way.
        progress: whether to show a progress bar.

    Raises:
        ValueError: requests under other settings are under way for this output, or a bound is not positive.
    """

    def __init__(
        self,
        describer: Describer,
        client: ChatClient,
        *,
        limit: int | None = None,
        budget: Budget | None = None,
        max_requests: int = 50_000,
        max_bytes: int = 100_000_000,
        poll_seconds: float = 30.0,
        progress: bool = True,
    ) -> None:
        if max_requests < 1:
            raise ValueError(f"requests of a batch must be at least 1, got {max_requests}")
        self._describer = describer
        self._store = describer.store
        self._client = client
        self._api = client.api.with_options(max_retries=5)  # few requests: the client's own retries do here
        self._limit = limit
        self._budget = budget
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._poll_seconds = poll_seconds
        self._progress = progress
        self._sent = 0
        settings = {"model": describer.model, "prompt": describer.prompt.version}
        self._files = BatchFiles(self._store.output.with_suffix(".batch"), settings)
        self._chunks = self._files.chunks

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Settles the images, in as many rounds as the attempts need.

        Raises:
            OSError: something could not be written.
        """
        described, failed = len(self._store), len(self._store.failures)
        stopped, refused, idle_rounds = None, False, 0
        try:
            while True:
                stopped = self._write_chunks(items)
                if not self._chunks:
                    break
                settled = self._store.answers + len(self._store.failures)
                await self._submit_and_collect()
                idle_rounds = idle_rounds + 1 if self._store.answers + len(self._store.failures) == settled else 0
                if idle_rounds == 3:
                    raise ServerRefuses("no request of three rounds of batches was answered")
        except ServerRefuses as error:
            stopped, refused = str(error), True
        except openai.OpenAIError as error:
            stopped, refused = self._client.redact(f"the Batch API: {error}"), True
        self._store.sync()
        self._files.close()
        return Outcome(len(self._store) - described, len(self._store.failures) - failed, stopped, refused)

    def _write_chunks(self, items: Iterable[ImageItem]) -> str | None:
        """Writes requests for all images neither settled nor under way; returns why it stopped early, if so."""
        under_way = {job.key for chunk in self._chunks for job, _ in self._files.jobs(chunk)}
        lines: list[bytes] = []
        jobs: list[tuple[Job, int]] = []
        size = 0
        stopped = None
        bar = tqdm(items, unit=" images", desc="reading", disable=not self._progress, leave=False)
        for item in bar:
            if self._describer.is_settled(item.file_path):
                continue
            try:
                job = self._describer.job(item)
            except ValueError as error:
                self._describer.fail(item, str(error))
                continue
            if job.key in under_way or self._describer.copied(job):
                continue
            messages = self._describer.messages(job)
            if messages is None:
                continue
            attempt = self._store.rejected(job.key)[0] + 1
            if stopped := self._reason_to_stop(len(under_way), first=attempt == 1):
                break
            self._sent += attempt == 1
            body = self._client.sampling.body(self._client.model, messages, self._describer.prompt.response_format)
            request = {"custom_id": job.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
            if lines and (size + len(line) > self._max_bytes or len(lines) == self._max_requests):
                self._files.add(lines, jobs)
                lines, jobs, size = [], [], 0
            lines.append(line)
            jobs.append((replace(job, image_url=""), attempt))
            size += len(line)
            under_way.add(job.key)
        if lines:
            self._files.add(lines, jobs)
        return stopped

    def _reason_to_stop(self, under_way: int, first: bool) -> str | None:
        if self._limit is not None and first and self._sent >= self._limit:
            return f"the limit of {self._limit} images is reached"
        if (
            self._budget is not None
            and self._budget.spent() + (under_way + 1) * self._budget.answer > self._budget.most
        ):
            return f"the next answer might exceed the most that may be spent, {self._budget.most:g}"
        return None

    async def _find_submitted(self) -> None:
        """Finds the batches of chunks whose submission was never confirmed, by the chunk's name in their metadata."""
        unconfirmed = {chunk.name: chunk for chunk in self._chunks if chunk.batch_id is None}
        if not unconfirmed:
            return
        earliest = min(chunk.written_at for chunk in unconfirmed.values()) - 3600  # clocks differ
        async for batch in self._api.batches.list(limit=100):
            chunk = unconfirmed.get((batch.metadata or {}).get("bdam_chunk", ""))
            if chunk is not None and batch.status != "failed":
                chunk.batch_id = batch.id
            if batch.created_at < earliest:
                break  # the newest come first
        self._files.save()

    async def _submit(self, chunk: Chunk) -> bool:
        """Uploads and submits a chunk; returns whether the server has room for it."""
        if chunk.file_id is None:
            uploaded = await self._api.files.create(file=self._files.path(chunk, "requests"), purpose="batch")
            chunk.file_id = uploaded.id
            self._files.save()
        for seconds in (1, 2, 4, 8, None):
            try:
                # Without the client's own retries: a batch whose confirmation was lost would be paid twice.
                batch = await self._client.api.batches.create(
                    input_file_id=chunk.file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={"bdam_chunk": chunk.name},
                )
                chunk.batch_id = batch.id
                self._files.save()
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                if isinstance(error, openai.APIStatusError) and error.code == _QUEUE_IS_FULL:
                    return False
                if seconds is None:
                    raise
                await asyncio.sleep(seconds)
                await self._find_submitted()
            if chunk.batch_id is not None:
                break
        self._files.path(chunk, "requests").unlink(missing_ok=True)
        return True

    async def _submit_and_collect(self) -> None:
        """Submits every chunk, waits for the answers and keeps them.

        Raises:
            ServerRefuses: a batch failed, or there is no room for a single one.
        """
        await self._find_submitted()
        collected, total = 0, sum(chunk.requests for chunk in self._chunks)
        has_room = True
        with tqdm(total=total, unit=" answers", disable=not self._progress) as bar:
            while self._chunks:
                answered, ended, waiting = 0, False, 0
                for chunk in list(self._chunks):
                    if chunk.batch_id is None and not (has_room and await self._submit(chunk)):
                        waiting += 1
                        continue
                    assert chunk.batch_id is not None
                    batch = await self._api.batches.retrieve(chunk.batch_id)
                    if batch.status == "failed" and any(error.code == _QUEUE_IS_FULL for error in _errors(batch)):
                        chunk.batch_id = None
                        self._files.save()
                        waiting += 1
                    elif batch.status in _ENDED:
                        await self._collect(chunk, batch)
                        collected, ended = collected + chunk.requests, True
                    elif batch.request_counts is not None:
                        answered += batch.request_counts.completed + batch.request_counts.failed
                has_room = ended or not waiting
                bar.n = collected + answered
                bar.set_postfix_str(self._how_it_stands(waiting))
                bar.refresh()
                if waiting and waiting == len(self._chunks) and not ended:
                    for chunk in list(self._chunks):
                        self._files.forget(chunk)  # nothing of them was submitted; they can be written smaller
                    raise ServerRefuses(
                        "the server's queue has no room for a batch: wait until others have ended, or write smaller "
                        "ones (--batch-requests)"
                    )
                if self._chunks:
                    await asyncio.sleep(self._poll_seconds)

    def _how_it_stands(self, waiting: int) -> str:
        tokens = sum(self._store.prompt_tokens.values()) + sum(self._store.completion_tokens.values())
        batches = f"{len(self._chunks) - waiting} batches under way" + (f", {waiting} waiting" if waiting else "")
        cost = f", cost {self._budget.spent():.2f}" if self._budget else ""
        return f"{batches}, {len(self._store.failures)} images failed, {tokens} tokens{cost}"

    async def _collect(self, chunk: Chunk, batch: Any) -> None:
        """Keeps the answers of a batch that has ended, then forgets it. What has no answer is sent again."""
        jobs = {job.key: (job, attempt) for job, attempt in self._files.jobs(chunk)}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            path = self._files.path(chunk, "answers")
            async with self._api.files.with_streaming_response.content(file_id) as response:
                await response.stream_to_file(path)
            with path.open("rb") as answers:
                for line in map(json.loads, filter(bytes.strip, answers)):
                    if line.get("custom_id") in jobs:
                        self._record(*jobs[line["custom_id"]], line)
        self._store.sync()
        if batch.status == "failed":
            reason = "; ".join(error.message or "" for error in _errors(batch)) or "no reason given"
            self._files.forget(chunk)
            raise ServerRefuses(self._client.redact(f"batch {batch.id} failed: {reason}"))
        self._files.forget(chunk)

    def _record(self, job: Job, attempt: int, line: dict[str, Any]) -> None:
        """Keeps one answer. One that was recorded before, by a process that was then killed, is passed over."""
        known = self._store.described_as(job.key) is not None or job.file_path in self._store.failures
        if known or self._store.rejected(job.key)[0] >= attempt:
            return
        response = line.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            try:
                answer = self._client.read(response.get("body"))
            except ValueError:
                return
            self._describer.record(job, answer)
        elif status is not None and 400 <= status < 500 and status not in (408, 409, 429):
            detail = self._client.redact(json.dumps(response.get("body"), ensure_ascii=False)[:300])
            self._describer.fail(job, f"status {status}: {detail}", attempt - 1, ["server"])


def _errors(batch: Any) -> list[Any]:
    return batch.errors.data if batch.errors and batch.errors.data else []
