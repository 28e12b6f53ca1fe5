"""Batch API runs: files of requests that the server answers within a day at a lower price.

The state is stored beside an output `descriptions.jsonl` in the folder `descriptions.batch`: `state.json` and, for each
chunk, its requests and jobs. The folder is removed when all answers are collected. Runs resume after a kill: the chunk
name in the metadata of each batch makes its submission idempotent.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import openai
from tqdm.auto import tqdm

from .answers import Problem
from .backend import Sampling, ServerRefuses
from .batch_files import BatchFiles, Chunk, download_lines
from .client import ChatClient, is_final
from .costs import Budget
from .describer import Describer, Job
from .images import ImageItem
from .run import Outcome, progress_text
from .systematic import LEAST, PROBE, WINDOW

_MOST_BYTES = 100_000_000  # of a file of requests; OpenAI accepts 200 MB
_ENDED = ("completed", "failed", "expired", "cancelled")
_QUEUE_IS_FULL = "token_limit_exceeded"
_ENDPOINT: Final = "/v1/chat/completions"


class BatchRun:
    """Describes images through the Batch API: writes, submits, polls, collects, and retries rejected answers.

    The first batch of a new output has 20 images: a systematic failure costs no more than these. Batches that do not
    fit into the server's queue wait until others have ended.

    Raises:
        ValueError: this output has unfinished batches under other settings.
    """

    def __init__(self, describer: Describer, client: ChatClient, budget: Budget | None = None) -> None:
        self.describer = describer
        self.client = client
        self.budget = budget
        self._options = describer.options
        self._store = describer.store
        self._api = client.api.with_options(max_retries=5)  # few requests: the SDK's own retries are sufficient
        self._sent = 0
        self._sampling = client.sampling  # of the requests that were written last
        self._not_at_fault: dict[str, str] = {}  # file_path -> reason of a failure that the image did not cause
        self._files = BatchFiles(self._store.output.with_suffix(".batch"), describer.settings)
        self._chunks = self._files.chunks

    async def run(self, items: Iterable[ImageItem]) -> Outcome:
        """Describes the images, in one round of batches per attempt; raises `OSError` if a file cannot be written."""
        described, failed = len(self._store), len(self._store.failures)
        stopped, refused, idle_rounds = None, False, 0
        probe = not any(self.describer.settings.items() <= record.items() for record in self._store.descriptions())
        try:
            while True:
                stopped = self._write_chunks(items, PROBE if probe and not self._chunks else None)
                if not self._chunks:
                    break
                before = self._progress()
                await self._submit_and_collect()
                if reason := self.describer.rule.reason_to_stop(LEAST * PROBE // WINDOW + 1 if probe else LEAST):
                    self.describer.forgive()
                    raise ServerRefuses(reason)
                probe = probe and not self.describer.rule.kept
                if before == self._progress() and self._not_at_fault:
                    break
                idle_rounds = idle_rounds + 1 if before == self._progress() else 0
                if idle_rounds == 3:
                    raise ServerRefuses("three rounds of batches returned no answer")
            self.describer.commit_failures()
            if self._not_at_fault:
                reasons = list(self._not_at_fault.values())
                raise ServerRefuses(f"{len(reasons)} requests failed for a reason that no image caused: {reasons[-1]}")
        except ServerRefuses as error:
            stopped, refused = str(error), True
        except openai.OpenAIError as error:
            stopped, refused = self.client.redact(f"the Batch API: {error}"), True
        self._store.sync()
        self._files.close()
        return Outcome(len(self._store) - described, len(self._store.failures) - failed, stopped, refused)

    def _progress(self) -> tuple[int, int, Sampling]:
        """Returns values of which a round of batches changes at least one, unless nothing was answered."""
        return self._store.answers, len(self._store.failures), self.client.sampling

    def _write_chunks(self, items: Iterable[ImageItem], most: int | None = None) -> str | None:
        """Writes requests for at most `most` images that need one; returns the reason for a stop."""
        self._sampling = self.client.sampling
        submitted = {job.key for chunk in self._chunks for job, _ in self._files.jobs(chunk)}
        lines: list[bytes] = []
        jobs: list[tuple[Job, int]] = []
        size = 0
        stopped = None
        for item in tqdm(items, unit=" images", desc="reading", disable=not self._options.progress, leave=False):
            # Skip images that need no request.
            if self.describer.is_settled(item.file_path) or item.file_path in self._not_at_fault:
                continue
            if len(submitted) == most:
                break
            try:
                job = self.describer.job(item)
            except ValueError as error:
                self.describer.fail(item, str(error))
                continue
            if job.key in submitted or self.describer.copied(job):
                continue
            messages = self.describer.messages(job)
            if messages is None:
                continue
            # Check limit and budget.
            attempt = self._store.rejected(job.key)[0] + 1
            if self._options.limit is not None and attempt == 1 and self._sent >= self._options.limit:
                stopped = f"the limit of {self._options.limit} images is reached"
            elif self.budget is not None:
                stopped = self.budget.reason_to_stop(len(submitted) + 1)
            if stopped:
                break
            # Add the request to the current chunk, or begin the next chunk.
            self._sent += attempt == 1
            body = self.client.sampling.body(self.client.model, messages, self.describer.prompt.response_format)
            request = {"custom_id": job.key, "method": "POST", "url": _ENDPOINT, "body": body}
            line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
            if lines and (size + len(line) > _MOST_BYTES or len(lines) == self._options.batch_requests):
                self._files.add(lines, jobs)
                lines, jobs, size = [], [], 0
            lines.append(line)
            jobs.append((replace(job, image_url=""), attempt))
            size += len(line)
            submitted.add(job.key)
        if lines:
            self._files.add(lines, jobs)
        return stopped

    async def _find_submitted(self) -> None:
        """Finds the batches of chunks with an unconfirmed submission, by the chunk name in their metadata."""
        unconfirmed = {chunk.name: chunk for chunk in self._chunks if chunk.batch_id is None}
        if not unconfirmed:
            return
        earliest = min(chunk.written_at for chunk in unconfirmed.values()) - 3600  # tolerance for clock skew
        async for batch in self._api.batches.list(limit=100):
            chunk = unconfirmed.get((batch.metadata or {}).get("bdam_chunk", ""))
            if chunk is not None and batch.status != "failed":
                chunk.batch_id = batch.id
            if batch.created_at < earliest:
                break  # batches are listed newest first
        self._files.save()

    async def _submit(self, chunk: Chunk) -> bool:
        """Uploads and submits a chunk, with exponential backoff; returns whether the server's queue accepted it."""
        if chunk.file_id is None:
            uploaded = await self._api.files.create(file=self._files.path(chunk, "requests"), purpose="batch")
            chunk.file_id = uploaded.id
            self._files.save()
        for seconds in (1, 2, 4, 8, None):
            try:
                # Without SDK retries: after a lost confirmation a retry would submit, and charge for, a second batch.
                batch = await self.client.api.batches.create(
                    input_file_id=chunk.file_id,
                    endpoint=_ENDPOINT,
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
        """Submits all chunks, polls until they end, and records their answers; raises `ServerRefuses`."""
        await self._find_submitted()
        collected, total = 0, sum(chunk.requests for chunk in self._chunks)
        has_room = True
        with tqdm(total=total, unit=" answers", disable=not self._options.progress) as bar:
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
                batches = f"{len(self._chunks) - waiting} batches submitted, {waiting} waiting"
                bar.set_postfix_str(f"{batches}, {progress_text(self._store, len(self._store.failures), self.budget)}")
                bar.refresh()
                if waiting and waiting == len(self._chunks) and not ended:
                    for chunk in list(self._chunks):
                        self._files.remove(chunk)  # none was submitted: the next run can write smaller chunks
                    raise ServerRefuses(
                        "the server's queue has no room for a batch: wait until others have ended, or write smaller "
                        "batches (--batch-requests)"
                    )
                if self._chunks:
                    await asyncio.sleep(self._options.poll_seconds)

    async def _collect(self, chunk: Chunk, batch: Any) -> None:
        """Records the answers of an ended batch and removes its chunk; raises `ServerRefuses` if it failed."""
        jobs = {job.key: (job, attempt) for job, attempt in self._files.jobs(chunk)}
        lines, unreadable = await download_lines(self._api, batch)
        answers = {line["custom_id"]: line for line in lines if line.get("custom_id") in jobs}
        refusals: list[str] = []
        errors: list[tuple[Job, str]] = []
        kept = self._store.answers
        for key, line in answers.items():
            error = self._record(*jobs[key], line, refusals)
            errors += [(jobs[key][0], error)] if error else []
        for job, attempt in [jobs[key] for key in jobs if key not in answers][:unreadable]:
            self._reject(job, attempt, "the server's line for this image was unreadable")
        for job, reason in errors:
            if self._store.answers > kept and not reason.startswith(("status 413", "status 422")):
                self.describer.fail(job, reason, ["server"])
            else:
                self._not_at_fault[job.file_path] = reason
        self._store.sync()
        self._files.remove(chunk)
        if batch.status == "failed":
            reason = "; ".join(error.message or "" for error in _errors(batch)) or "no reason given"
            raise ServerRefuses(self.client.redact(f"batch {batch.id} failed: {reason}"))
        if refusals:
            raise ServerRefuses(refusals[0])

    def _record(self, job: Job, attempt: int, line: dict[str, Any], refusals: list[str]) -> str | None:
        """Records one answer, idempotently: skips an answer that an interrupted process recorded before.

        Returns the error of a request that would fail again; adds one that all requests will get to `refusals`.
        """
        if self._is_known(job, attempt):
            return None
        response = line.get("response")
        response = response if isinstance(response, dict) else {}
        status = response.get("status_code")
        if status == 200:
            try:
                self.describer.record(job, self.client.read(response.get("body")))
            except ValueError as error:
                self._reject(job, attempt, str(error))
        elif isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 429):
            detail = self.client.redact(json.dumps(response.get("body"), ensure_ascii=False))[:300]
            if self.client.adapt(status, detail, self._sampling):
                return None
            reason = f"status {status}: {detail}"
            if not is_final(status, reason):
                return reason
            refusals.append(f"the server refuses all requests: {reason}")
        return None

    def _reject(self, job: Job, attempt: int, reason: str) -> None:
        """Counts an attempt with an unreadable answer; its tokens are unknown."""
        if not self._is_known(job, attempt):
            common = {"key": job.key, **self.describer.settings}
            self.describer.reject(job, [Problem("server", reason)], "", common)

    def _is_known(self, job: Job, attempt: int) -> bool:
        is_settled = self._store.described_as(job.key) is not None or job.file_path in self._store.failures
        return is_settled or self._store.rejected(job.key)[0] >= attempt


def _errors(batch: Any) -> list[Any]:
    return batch.errors.data if batch.errors and batch.errors.data else []
