"""The whole way from a data set to its file of descriptions, as `bdam describe run` goes it."""

import asyncio
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Backend, ChatClient, Sampling
from .costs import Price, cost_so_far, price_of, read_prices
from .describer import Describer
from .images import ImageItems
from .prompts import DescriptionPrompt, Style
from .run import Budget, DescribeRun, Outcome
from .store import DescriptionStore
from .validation import Requirements


@dataclass(frozen=True)
class DescribeOptions:
    """What is asked, of whom, and how much of it.

    Attributes:
        output: the file of descriptions; others lie beside it, see `DescriptionStore`.
        model: its name at the server, or a folder or Hub id for `local`.
        base_url: the server's address; the service of OpenAI by default.
        local: a model of transformers in this process answers instead of a server.
        batch: the server's Batch API answers, for batches of at most `batch_requests`.
        prompts: a folder of prompt files, see `DescriptionPrompt`.
        draw_style: draws the style of each image's caption, see `Describer`.
        max_cost: needs `prices`, a file, see `read_prices`.
        others: "keep" or "replace" descriptions that were made under other settings; None refuses to run then.

    The others are those of `Describer`, `DescribeRun`, `BatchRun`, `ChatClient` and `TransformersBackend`.
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
            raise ValueError("the Batch API is one of servers; a local model has none")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")


def describe_images(items: ImageItems, options: DescribeOptions) -> Outcome:
    """Gives every image a description or a recorded failure, as far as the options let it.

    Raises:
        ValueError: an option cannot be used, or the output holds descriptions under other settings.
        OSError: a file cannot be read or written, or another process is writing to the output.
    """
    with DescriptionStore(options.output) as store:
        describer = _describer(store, options)
        budget = _budget(describer, options)
        _settle_others(describer, items, options)
        if options.retry_failed:
            store.reopen_failures()
        return asyncio.run(_run(describer, items, budget, options))


def estimate_run(items: ImageItems, options: DescribeOptions) -> dict[str, Any]:
    """What a run would send and cost, without sending anything.

    Tokens of an answer are the mean of those in the output if there are some, else a guess: four letters a token, and
    the price table's tokens an image.

    Raises:
        ValueError, OSError: as `describe_images`.
    """
    with tempfile.TemporaryDirectory() as empty:
        output = options.output if options.output.exists() else Path(empty) / "none.jsonl"  # an estimate leaves no file
        with DescriptionStore(output) as store:
            return _estimate(_describer(store, options), items, options)


def _estimate(describer: Describer, items: ImageItems, options: DescribeOptions) -> dict[str, Any]:
    price = _price(options)
    survey = describer.survey(items, progress=options.progress)
    send = survey.pending + (survey.failed if options.retry_failed else 0)
    send += len(survey.changed) if options.others == "replace" else 0
    send = send if options.limit is None else min(send, options.limit)
    prompt_tokens, completion_tokens = _tokens_of_an_answer(describer, price)
    return {
        "images": survey.images,
        "described": survey.described,
        "under_other_settings": len(survey.changed),
        "failed": survey.failed,
        "to_send": send,
        "prompt_tokens": round(send * prompt_tokens),
        "completion_tokens": round(send * completion_tokens),
        "cost": price.cost(send * prompt_tokens, send * completion_tokens, options.batch) if price else None,
        "cost_so_far": cost_so_far(describer.store, read_prices(options.prices)) if options.prices else None,
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
        seed=options.seed,
    )


def _settle_others(describer: Describer, items: ImageItems, options: DescribeOptions) -> None:
    """Does with descriptions under other settings as the options say."""
    if options.others == "keep" or not len(describer.store):
        return
    changed = describer.survey(items, progress=options.progress).changed
    if not changed:
        return
    if options.others != "replace":
        raise ValueError(
            f"{options.output}: {len(changed)} images, such as {changed[0]}, were described by another model, prompt "
            "or style, or have changed since; name another output, or say --others keep or --others replace"
        )
    describer.store.supersede(changed)


def _price(options: DescribeOptions) -> Price | None:
    return None if options.prices is None else price_of(read_prices(options.prices), options.model)


def _budget(describer: Describer, options: DescribeOptions) -> Budget | None:
    price = _price(options)
    if price is None or options.prices is None:
        return None
    prices = read_prices(options.prices)
    answer = price.cost(*_tokens_of_an_answer(describer, price), options.batch)
    most = math.inf if options.max_cost is None else options.max_cost
    return Budget(most, lambda: cost_so_far(describer.store, prices), answer)


def _tokens_of_an_answer(describer: Describer, price: Price | None) -> tuple[float, float]:
    """Prompt and completion tokens of one answer."""
    store = describer.store
    if store.answers >= 20:
        return sum(store.prompt_tokens.values()) / store.answers, sum(store.completion_tokens.values()) / store.answers
    requirements = describer.prompt.requirements
    words = len(requirements.keys) * (requirements.min_words + requirements.max_words) / 2
    image = price.image_tokens if price else Price.image_tokens
    return describer.prompt.letters / 4 + image, 1.4 * words + 30
