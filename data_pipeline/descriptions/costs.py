"""Costs of answers, from token counts and the user's price table."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..benchmarks.text_files import read_json
from .store import DescriptionStore


@dataclass(frozen=True)
class Price:
    """Prices of one model.

    Attributes:
        input, output: price of a million tokens, in US dollars or any other single currency.
        batch: factor on all prices for the Batch API.
        cached_input, image_input: prices of a million cached prompt tokens and image tokens; `input` by default.
        image_tokens: prompt tokens of one image, for estimates.
    """

    input: float
    output: float
    batch: float = 0.5
    image_tokens: int = 255
    cached_input: float | None = None
    image_input: float | None = None

    def cost(
        self,
        prompt_tokens: float,
        completion_tokens: float,
        batch: bool = False,
        *,
        cached: float = 0,
        image: float = 0,
    ) -> float:
        """Returns the cost of the given token counts; `cached` and `image` are parts of the prompt tokens."""
        full = prompt_tokens * self.input + completion_tokens * self.output
        for tokens, price in ((cached, self.cached_input), (image, self.image_input)):
            full += tokens * (price - self.input) if price is not None else 0.0
        return full / 1e6 * (self.batch if batch else 1.0)


def read_prices(file: Path) -> dict[str, Price]:
    """Reads a price table: `{"gpt-4o": {"input": 2.5, "output": 10.0, "batch": 0.5, "image_tokens": 255}}`.

    `batch`, `image_tokens`, `cached_input` and `image_input` are optional.

    Raises:
        ValueError: the file has another structure; the message names the entry.
        OSError: the file cannot be read.
    """
    table = read_json(file)
    if not isinstance(table, dict):
        raise ValueError(f'{file}: expected an object {{"MODEL": {{"input": …, "output": …}}}}')
    prices = {}
    for model, entry in table.items():
        numbers = isinstance(entry, dict) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in entry.values()
        )
        if not numbers or not {"input", "output"} <= set(entry) <= {field.name for field in fields(Price)}:
            raise ValueError(
                f"{file}, {model!r}: expected numbers `input` and `output` (price of a million tokens) and optionally "
                f"`batch`, `image_tokens`, `cached_input`, `image_input`, got {entry!r}"
            )
        prices[model] = Price(**entry)
    return prices


def record_cost(record: dict[str, Any], prices: dict[str, Price]) -> float:
    """Returns the cost of the answer in one store record; 0 if the price table lacks its model."""
    usage = record.get("usage")
    price = prices.get(record.get("model", ""))
    if not usage or price is None:
        return 0.0
    parts = {"cached": usage.get("cached_tokens", 0), "image": usage.get("image_tokens", 0)}
    return price.cost(usage["prompt_tokens"], usage["completion_tokens"], bool(record.get("batch")), **parts)


def cost_so_far(store: DescriptionStore, prices: dict[str, Price]) -> float:
    """Sums the cost of all answers in a store, rejected answers included; models without a price count as free."""
    return sum(
        prices[spent.model].cost(
            prompt_tokens,
            store.completion_tokens[spent],
            spent.batch,
            cached=store.cached_tokens[spent],
            image=store.image_tokens[spent],
        )
        for spent, prompt_tokens in store.prompt_tokens.items()
        if spent.model in prices
    )
