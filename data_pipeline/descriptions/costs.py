"""Costs of answers, from token counts and the user's price table."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ..benchmarks.text_files import read_json
from .store import DescriptionStore

MEAN_OF = 20  # stored answers whose mean is a better estimate than the number of characters


@dataclass(frozen=True)
class Price:
    """Prices of one model.

    Attributes:
        input, output: price of a million tokens, in US dollars or any other single currency.
        batch: factor on all prices for the Batch API.
        image_tokens: prompt tokens of one image, for estimates.
        cached_input, image_input: prices of a million cached prompt tokens and image tokens; `input` by default.
    """

    input: float
    output: float
    batch: float = 0.5
    image_tokens: int = 255
    cached_input: float | None = None
    image_input: float | None = None

    def cost(self, usage: Mapping[str, float], batch: bool = False) -> float:
        """Returns the cost of the tokens in a record's `usage`; cached and image tokens are part of the prompt's."""
        full = usage["prompt_tokens"] * self.input + usage["completion_tokens"] * self.output
        for name, price in (("cached_tokens", self.cached_input), ("image_tokens", self.image_input)):
            if price is not None:
                full += usage.get(name, 0) * (price - self.input)
        return full / 1e6 * (self.batch if batch else 1.0)


def read_prices(file: Path) -> dict[str, Price]:
    """Reads a price table, `{"gpt-4o": {"input": 2.5, "output": 10.0}}`, with the optional fields of `Price`.

    Raises:
        ValueError, OSError: the file has another structure, or cannot be read.
    """
    table = read_json(file)
    if not isinstance(table, dict):
        raise ValueError(f'{file}: expected an object {{"MODEL": {{"input": …, "output": …}}}}')
    for model, entry in table.items():
        numbers = isinstance(entry, dict) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 for value in entry.values()
        )
        if not numbers or not {"input", "output"} <= set(entry) <= {field.name for field in fields(Price)}:
            raise ValueError(
                f"{file}, {model!r}: expected numbers `input` and `output` (price of a million tokens) and optionally "
                f"`batch`, `image_tokens`, `cached_input`, `image_input`, got {entry!r}"
            )
    return {model: Price(**entry) for model, entry in table.items()}


@dataclass(frozen=True)
class Budget:
    """Maximum cost of an output.

    Attributes:
        store: the answers of the output.
        prices: the price table; models that it lacks count as free.
        most: the maximum.
        answer: estimated cost of one answer, until the store has enough answers for their mean.
    """

    store: DescriptionStore
    prices: Mapping[str, Price]
    most: float
    answer: float

    def spent(self) -> float:
        """Returns the cost of all answers in the store, rejected answers included."""
        used = self.store.usage.items()
        return sum(self.prices[model].cost(usage, batch) for (model, batch), usage in used if model in self.prices)

    def reason_to_stop(self, requests: int) -> str | None:
        """Returns a message if so many further requests could exceed the maximum."""
        spent = self.spent()
        answer = self.answer if self.store.answers < MEAN_OF else spent / self.store.answers
        if spent + requests * answer <= self.most:
            return None
        return f"the next answer could exceed the maximum cost: {spent:.4f} of {self.most:g} are spent"
