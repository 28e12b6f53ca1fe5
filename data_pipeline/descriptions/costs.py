"""Costs of answers, from token counts and the user's price table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.text_files import read_json
from .store import DescriptionStore


@dataclass(frozen=True)
class Price:
    """Prices of one model.

    Attributes:
        input, output: price of a million tokens, in US dollars or any other single currency.
        batch: factor on both prices for the Batch API.
        image_tokens: prompt tokens of one image, for estimates.
    """

    input: float
    output: float
    batch: float = 0.5
    image_tokens: int = 255

    def cost(self, prompt_tokens: float, completion_tokens: float, batch: bool = False) -> float:
        """Returns the cost of the given token counts."""
        full = (prompt_tokens * self.input + completion_tokens * self.output) / 1e6
        return full * self.batch if batch else full


def read_prices(file: Path) -> dict[str, Price]:
    """Reads a price table: `{"gpt-4o": {"input": 2.5, "output": 10.0, "batch": 0.5, "image_tokens": 255}}`.

    `batch` and `image_tokens` are optional.

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
        if not numbers or not {"input", "output"} <= set(entry) <= {"input", "output", "batch", "image_tokens"}:
            raise ValueError(
                f"{file}, {model!r}: expected numbers `input` and `output` (price of a million tokens) and optionally "
                f"`batch`, `image_tokens`, got {entry!r}"
            )
        prices[model] = Price(**entry)
    return prices


def record_cost(record: dict[str, Any], prices: dict[str, Price]) -> float:
    """Returns the cost of the answer in one store record; 0 if the price table lacks its model."""
    usage = record.get("usage")
    price = prices.get(record.get("model", ""))
    if not usage or price is None:
        return 0.0
    return price.cost(usage["prompt_tokens"], usage["completion_tokens"], bool(record.get("batch")))


def cost_so_far(store: DescriptionStore, prices: dict[str, Price]) -> float:
    """Sums the cost of all answers in a store, rejected answers included; models without a price count as free."""
    return sum(
        prices[spent.model].cost(prompt_tokens, store.completion_tokens[spent], spent.batch)
        for spent, prompt_tokens in store.prompt_tokens.items()
        if spent.model in prices
    )
