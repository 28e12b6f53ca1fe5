"""Injects noise into training texts, as multimodal LLMs do: swapped texts and wrong attributes."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset

from ..benchmarks.columns import with_column

TEXT_COLUMNS = ("captions", "identity_description", "clothing_description", "styled_captions")
# The words of a group can replace each other in a sentence and change the description of the person.
ATTRIBUTE_WORDS = (
    ("black", "white", "grey", "gray", "blue", "red", "green", "brown", "yellow", "pink", "purple", "orange", "beige"),
    ("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat", "blouse", "vest"),
    ("trousers", "pants", "jeans", "shorts", "leggings"),
    ("sneakers", "boots", "shoes", "sandals"),
    ("backpack", "handbag", "suitcase"),
    ("striped", "checked", "dotted", "plaid"),
    ("man", "woman"),
    ("male", "female"),
    ("he", "she"),
    ("his", "her"),
    ("young", "middle-aged", "elderly"),
    ("slim", "heavy"),
    ("short", "long", "tall"),
    ("pale", "olive", "dark"),
)
_WORDS = re.compile(
    r"\b(" + "|".join(sorted((w for g in ATTRIBUTE_WORDS for w in g), key=len, reverse=True)) + r")\b", re.IGNORECASE
)


def corrupt_texts(rows: Dataset, share: float, seed: int, clean_only: bool = False) -> Dataset:
    """Replaces the texts of a share of the rows: half by another person's texts, half by texts with wrong attributes.

    All captions and descriptions of a row are replaced together, as when an LLM misreads an image.

    Args:
        rows: a training split.
        share: of the rows, in [0, 1].
        seed: selects the rows and the replacements.
        clean_only: drop the selected rows instead: an upper bound for methods that detect wrong texts.

    Raises:
        ValueError: the share is out of range, or one person has most of the images, so that texts cannot be swapped.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of wrong texts must be between 0 and 1, got {share}")
    rng = random.Random(f"{seed}/noise")
    wrong = rng.sample(range(len(rows)), round(share * len(rows)))
    if clean_only:
        return rows.select(sorted(set(range(len(rows))) - set(wrong)))
    swapped, changed = wrong[: len(wrong) // 2], wrong[len(wrong) // 2 :]
    source = dict(zip(swapped, _of_others(swapped, rows["person_id"], rng), strict=True))
    changes = {row: _word_changes(random.Random(f"{seed}/{row}/attributes")) for row in changed}
    for name in TEXT_COLUMNS:
        if name in rows.column_names:
            texts: list[Any] = list(rows[name])
            new = [texts[source.get(row, row)] for row in range(len(rows))]
            for row, change in changes.items():
                new[row] = [change(text) for text in new[row]] if isinstance(new[row], list) else change(new[row])
            rows = with_column(rows, name, new, rows.features[name])
    return rows


def _of_others(rows: Sequence[int], person_ids: Sequence[int], rng: random.Random) -> list[int]:
    """For each row another row of the same list that shows another person; each row is used once."""
    people = Counter(person_ids[row] for row in rows)
    shift = max(people.values(), default=0)
    if 2 * shift > len(rows):
        raise ValueError(f"texts of {len(rows)} images cannot be swapped: {shift} of them show one person")
    order = list(people)
    rng.shuffle(order)
    place = {person: position for position, person in enumerate(order)}
    sorted_rows = sorted(rng.sample(list(rows), len(rows)), key=lambda row: place[person_ids[row]])
    # In this order the row `shift` places further on shows another person.
    following = dict(zip(sorted_rows, sorted_rows[shift:] + sorted_rows[:shift], strict=True))
    return [following[row] for row in rows]


def _word_changes(rng: random.Random) -> Callable[[str | None], str | None]:
    """Returns a function that replaces each attribute word by another word of its group, consistently."""
    other: dict[str, str] = {}
    for group in ATTRIBUTE_WORDS:
        shift = rng.randrange(1, len(group))
        other |= dict(zip(group, group[shift:] + group[:shift], strict=True))

    def replace(match: re.Match[str]) -> str:
        word = other[match[0].lower()]
        return word.capitalize() if match[0][0].isupper() else word

    return lambda text: None if text is None else _WORDS.sub(replace, text)
