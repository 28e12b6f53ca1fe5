"""What answers cost, by a price table that the user gives."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .store import DescriptionStore


@dataclass(frozen=True)
class Price:
    """US dollars (or any one currency) for a million tokens, what the Batch API's price is of it, tokens an image."""

    input: float
    output: float
    batch: float = 0.5
    image_tokens: int = 255

    def cost(self, prompt_tokens: float, completion_tokens: float, batch: bool = False) -> float:
        """What so many tokens cost."""
        full = (prompt_tokens * self.input + completion_tokens * self.output) / 1e6
        return full * self.batch if batch else full


def read_prices(file: Path) -> dict[str, Price]:
    """A price table, by model: `{"gpt-4o": {"input": 2.5, "output": 10.0, "batch": 0.5, "image_tokens": 255}}`.

    `batch` and `image_tokens` may be left out.

    Raises:
        ValueError: the file is of another form; the message names the entry.
        OSError: the file cannot be read.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: no valid JSON ({error})") from None
    if not isinstance(table, dict):
        raise ValueError(f'{file}: an object {{"MODEL": {{"input": …, "output": …}}}} is expected')
    prices = {}
    for model, entry in table.items():
        numbers = isinstance(entry, dict) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in entry.values()
        )
        if not numbers or not {"input", "output"} <= set(entry) <= {"input", "output", "batch", "image_tokens"}:
            raise ValueError(
                f"{file}, {model!r}: numbers `input` and `output` (a million tokens), and perhaps `batch`, "
                f"`image_tokens`, are expected, got {entry!r}"
            )
        prices[model] = Price(**entry)
    return prices


def price_of(prices: dict[str, Price], model: str) -> Price:
    """The price of a model.

    Raises:
        ValueError: the table does not name it.
    """
    if model not in prices:
        raise ValueError(f"the price table does not name {model!r}; it names {', '.join(prices) or 'no model'}")
    return prices[model]


def record_cost(record: dict[str, Any], prices: dict[str, Price]) -> float:
    """What the answer in a line of a store cost; 0 if the table does not name its model."""
    usage = record.get("usage")
    price = prices.get(record.get("model", ""))
    if not usage or price is None:
        return 0.0
    return price.cost(usage["prompt_tokens"], usage["completion_tokens"], bool(record.get("batch")))


def cost_so_far(store: DescriptionStore, prices: dict[str, Price]) -> float:
    """What all answers in a store cost, rejected ones too; models that the table does not name count as free."""
    total = 0.0
    for spent, prompt_tokens in store.prompt_tokens.items():
        if spent.model in prices:
            price = prices[spent.model]
            total += price.cost(prompt_tokens, store.completion_tokens[spent], spent.batch)
    return total
