"""The `bdam describe run` pipeline: from a data set to its file of descriptions."""

import asyncio
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .backend import Backend, Sampling
from .client import ChatClient
from .costs import Price, cost_so_far, read_prices
from .describer import Describer
from .images import ImageItems
from .prompts import DescriptionPrompt, Style
from .run import Budget, DescribeRun, Outcome
from .store import DescriptionStore
from .validation import Requirements

_FIELD_TOKENS = 180  # of the fields of an answer and the keys of its texts, for estimates


@dataclass(frozen=True)
class DescribeOptions:
    """Options of a run.

    Attributes:
        output: the file of descriptions; see `DescriptionStore` for the files beside it.
        model: name at the server, or a folder or Hub id if `local`.
        base_url: the server's address; the OpenAI service by default.
        local: use a transformers model in this process instead of a server.
        batch: use the server's Batch API, with at most `batch_requests` requests per batch.
        prompts: a folder of prompt files, see `DescriptionPrompt`.
        draw_style: draws the style of each image's caption, see `Describer`.
        max_cost: requires `prices`, a price table, see `read_prices`.
        others: "keep" or "replace" descriptions under other settings; None raises an error if there are any.

    All others are those of `Describer`, `DescribeRun`, `BatchRun`, `ChatClient` and `TransformersBackend`.
    """

    output: Path
    model: str
    base_url: str | None = None
    local: bool = False
    batch: bool = False
    batch_requests: int = 50_000
    requirements: Requirements = field(default_factory=Requirements)
    prompts: Path | None = None
    draw_style: Callable[[random.Random], Style] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_attempts: int = 3
    max_duplicates: int = 20
    in_flight: int = 32
    timeout: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    batch_size: int = 8
    device: str | None = None
    poll_seconds: float = 30.0
    max_side: int = 768
    max_bytes: int = 200_000
    limit: int | None = None
    prices: Path | None = None
    max_cost: float | None = None
    retry_failed: bool = False
    others: str | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs a price table (prices)")
        if self.batch and self.local:
            raise ValueError("batch needs a server with the Batch API, not a local model")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


def describe_images(items: ImageItems, options: DescribeOptions) -> Outcome:
    """Describes all images that have neither a description nor a recorded failure, within the options' limits.

    Raises:
        ValueError: an invalid option, or the output has descriptions under other settings.
        OSError: a file cannot be read or written, or another process writes to the output.
    """
    with DescriptionStore(options.output) as store:
        describer = _describer(store, options)
        budget = _budget(describer, options)
        _resolve_others(describer, items, options)
        if options.retry_failed:
            store.reopen_failures()
        return asyncio.run(_run(describer, items, budget, options))


def estimate_run(items: ImageItems, options: DescribeOptions) -> dict[str, Any]:
    """Estimates the requests and the cost of a run, without sending anything.

    Tokens per answer are the mean over the output if it has enough answers; otherwise they are estimated from four
    characters per token and the price table's tokens per image.

    Raises:
        ValueError, OSError: as `describe_images`.
    """
    with tempfile.TemporaryDirectory() as empty:
        output = options.output if options.output.exists() else Path(empty) / "none.jsonl"  # an estimate adds no file
        with DescriptionStore(output) as store:
            describer = _describer(store, options)
            prices, price = _prices(options)
            survey = describer.survey(items, progress=options.progress)
            spent = cost_so_far(store, prices) if price else None
            prompt_tokens, completion_tokens = _tokens_per_answer(describer, price)
    send = survey.pending + (survey.failed if options.retry_failed else 0)
    send += len(survey.changed) if options.others == "replace" else 0
    send = send if options.limit is None else min(send, options.limit)
    return {
        "images": survey.images,
        "described": survey.described,
        "under_other_settings": len(survey.changed),
        "failed": survey.failed,
        "to_send": send,
        "prompt_tokens": round(send * prompt_tokens),
        "completion_tokens": round(send * completion_tokens),
        "cost": price.cost(send * prompt_tokens, send * completion_tokens, options.batch) if price else None,
        "cost_so_far": spent,
    }


async def _run(describer: Describer, items: ImageItems, budget: Budget | None, options: DescribeOptions) -> Outcome:
    backend: Backend
    if options.local:
        from .local import TransformersBackend

        backend = TransformersBackend(
            options.model, sampling=options.sampling, batch_size=options.batch_size, device=options.device
        )
    else:
        backend = client = ChatClient(
            options.model,
            options.base_url,
            sampling=options.sampling,
            in_flight=options.in_flight,
            timeout=options.timeout,
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
        )
    try:
        if options.batch:
            from .batch import BatchRun

            batches = BatchRun(
                describer,
                client,
                limit=options.limit,
                budget=budget,
                max_requests=options.batch_requests,
                poll_seconds=options.poll_seconds,
                progress=options.progress,
            )
            return await batches.run(items)
        pending = sum(not describer.is_settled(file_path) for file_path in items.file_paths())
        run = DescribeRun(
            describer, backend, limit=options.limit, budget=budget, total=pending, progress=options.progress
        )
        return await run.run(items)
    finally:
        await backend.close()


def _describer(store: DescriptionStore, options: DescribeOptions) -> Describer:
    return Describer(
        store,
        DescriptionPrompt(options.requirements, options.prompts),
        options.model,
        draw_style=options.draw_style,
        max_attempts=options.max_attempts,
        max_duplicates=options.max_duplicates,
        max_side=options.max_side,
        max_bytes=options.max_bytes,
        batch=options.batch,
        image_tokens=price.image_tokens if (price := _prices(options)[1]) else Price.image_tokens,
        seed=options.seed,
    )


def _resolve_others(describer: Describer, items: ImageItems, options: DescribeOptions) -> None:
    """Keeps, replaces or refuses descriptions under other settings, as `options.others` selects."""
    if options.others == "keep" or not len(describer.store):
        return
    changed = describer.survey(items, progress=options.progress).changed
    if changed and options.others != "replace":
        raise ValueError(
            f"{options.output}: {len(changed)} images, such as {changed[0]}, were described by another model, prompt "
            "or style, or have changed since; choose another output, or pass --others keep or --others replace"
        )
    if changed:
        describer.store.supersede(changed)


def _prices(options: DescribeOptions) -> tuple[dict[str, Price], Price | None]:
    """Reads the price table; returns it and the price of the model, None without a table."""
    if options.prices is None:
        return {}, None
    prices = read_prices(options.prices)
    if options.model not in prices:
        raise ValueError(
            f"{options.prices}: no price for {options.model!r}, only for {', '.join(prices) or 'no model'}"
        )
    return prices, prices[options.model]


def _budget(describer: Describer, options: DescribeOptions) -> Budget | None:
    prices, price = _prices(options)
    if price is None:
        return None
    answer = price.cost(*_tokens_per_answer(describer, price), options.batch)
    most = math.inf if options.max_cost is None else options.max_cost
    return Budget(most, lambda: cost_so_far(describer.store, prices), answer)


def _tokens_per_answer(describer: Describer, price: Price | None) -> tuple[float, float]:
    """Returns prompt and completion tokens of one answer: the mean over the store, or an estimate."""
    store = describer.store
    if store.answers >= 20:
        return sum(store.prompt_tokens.values()) / store.answers, sum(store.completion_tokens.values()) / store.answers
    requirements = describer.prompt.requirements
    words = len(requirements.keys) * (requirements.min_words + requirements.max_words) / 2
    image = price.image_tokens if price else Price.image_tokens
    return describer.prompt.letters / 4 + image, 1.4 * words + _FIELD_TOKENS
