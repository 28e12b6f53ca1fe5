"""The `bdam describe run` pipeline: from a data set to its file of descriptions."""

import asyncio
import math
import tempfile
from pathlib import Path
from typing import Any

from .backend import Backend
from .batch import BatchRun
from .client import ChatClient
from .costs import MEAN_OF, Budget, Price, read_prices
from .describer import Describer
from .images import ImageItems
from .options import DescribeOptions
from .run import DescribeRun, Outcome
from .store import DescriptionStore

_CLIENT = ("sampling", "in_flight", "timeout", "requests_per_minute", "tokens_per_minute")
_FIELD_TOKENS = 180  # of the fields of an answer and the keys of its texts, for estimates


def describe_images(items: ImageItems, options: DescribeOptions) -> Outcome:
    """Describes all images that have neither a description nor a recorded failure, within the options' limits.

    Raises:
        ValueError: an invalid option, or the output has descriptions under other settings.
        OSError: a file cannot be read or written, or another process writes to the output.
    """
    with DescriptionStore(options.output) as store:
        prices, price = _prices(options)
        describer = Describer(store, options, price)
        budget = None
        if price is not None:
            most = math.inf if options.max_cost is None else options.max_cost
            budget = Budget(store, prices, most, price.cost(_tokens_per_answer(describer), options.batch))
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
            prices, price = _prices(options)
            describer = Describer(store, options, price)
            counts, changed = describer.survey(items)
            spent = Budget(store, prices, math.inf, 0.0).spent() if price else None
            answer = _tokens_per_answer(describer)
    send = counts["pending"] + (counts["failed"] if options.retry_failed else 0)
    send += len(changed) if options.others == "replace" else 0
    send = send if options.limit is None else min(send, options.limit)
    return {
        "images": sum(counts.values()),
        "described": counts["described"],
        "under_other_settings": len(changed),
        "failed": counts["failed"],
        "to_send": send,
        "prompt_tokens": round(send * answer["prompt_tokens"]),
        "completion_tokens": round(send * answer["completion_tokens"]),
        "cost": send * price.cost(answer, options.batch) if price else None,
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
        settings = {name: getattr(options, name) for name in _CLIENT}
        backend = client = ChatClient(options.model, options.base_url, **settings)
    try:
        if options.batch:
            return await BatchRun(describer, client, budget).run(items)
        total = sum(not describer.is_settled(file_path) for file_path in items.file_paths())
        return await DescribeRun(describer, backend, budget, total).run(items)
    finally:
        await backend.close()


def _resolve_others(describer: Describer, items: ImageItems, options: DescribeOptions) -> None:
    """Keeps, replaces or refuses descriptions under other settings, as `options.others` selects."""
    if options.others == "keep" or not len(describer.store):
        return
    _, changed = describer.survey(items)
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


def _tokens_per_answer(describer: Describer) -> dict[str, float]:
    """Returns the tokens of one answer: the mean over the store, or an estimate from its characters."""
    store, requirements = describer.store, describer.prompt.requirements
    if store.answers >= MEAN_OF:
        tokens = store.tokens
        return {name: tokens[name] / store.answers for name in (*tokens, "prompt_tokens", "completion_tokens")}
    words = len(requirements.keys) * (requirements.min_words + requirements.max_words) / 2
    return {"prompt_tokens": describer.prompt_tokens, "completion_tokens": 1.4 * words + _FIELD_TOKENS}
