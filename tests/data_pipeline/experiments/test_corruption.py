"""Noise in training texts: the number of wrong rows, and their replaced persons and attributes."""

import re
from typing import Any

import pytest
from datasets import Dataset

from data_pipeline import PERSON_FEATURES
from data_pipeline.experiments.corruption import ATTRIBUTE_WORDS, corrupt_texts

TEXTS = ("captions", "identity_description", "clothing_description")


def rows_of(people: int, images: int) -> Dataset:
    rows = [
        {
            **{"image": None, "person_id": person, "camera_id": 0, "outfit_id": person},
            "captions": [f"Person {person} in a red coat", f"image {image} of person {person}, a man"],
            "identity_description": f"A young man, number {person}.",
            "clothing_description": f"Black jeans, number {person}.",
        }
        for person in range(people)
        for image in range(images)
    ]
    return Dataset.from_list(rows, features=PERSON_FEATURES)


def numbers_in(row: dict[str, Any]) -> set[str]:
    """The people that the texts of a row describe."""
    text = " ".join([*row["captions"], row["identity_description"], row["clothing_description"]])
    return set(re.findall(r"(?:person|number) (\d+)", text.lower()))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_corrupt_texts_swaps_half_and_changes_half(share: float) -> None:
    clean = rows_of(20, 5)
    noisy = corrupt_texts(clean, share, seed=0)
    swapped = changed = 0
    for before, after in zip(clean, noisy, strict=True):
        about = numbers_in(after)
        assert len(about) == 1  # captions and descriptions are replaced together
        if about != {str(before["person_id"])}:
            swapped += 1
        elif any(before[name] != after[name] for name in TEXTS):
            changed += 1
            assert all(before[name] != after[name] for name in TEXTS)
        assert before["person_id"] == after["person_id"]
    assert (swapped, changed) == (round(50 * share), round(50 * share))


def test_corrupt_texts_clean_only_drops_exactly_the_wrong_rows() -> None:
    clean = rows_of(20, 5)
    noisy = corrupt_texts(clean, 0.3, seed=0)
    right = [row for row, other in zip(clean, noisy, strict=True) if row == other]
    assert len(right) == 70
    assert list(corrupt_texts(clean, 0.3, seed=0, clean_only=True)) == right


def test_corrupt_texts_replaces_attributes_consistently() -> None:
    kinds = {word: number for number, group in enumerate(ATTRIBUTE_WORDS) for word in group}
    clean = rows_of(2, 2)
    noisy = corrupt_texts(clean, 1.0, seed=0)
    changed = [row for row, before in zip(noisy, clean, strict=True) if numbers_in(row) == {str(before["person_id"])}]
    assert changed
    for row in changed:
        coat, man = row["captions"][0].split()[-1], row["captions"][1].split()[-1]
        assert (coat, man) != ("coat", "man")
        assert (kinds[coat], kinds[man]) == (kinds["coat"], kinds["man"])
        young, described, *_ = row["identity_description"].removeprefix("A ").replace(",", "").split()
        assert (kinds[young], described) == (kinds["young"], man)
        assert row["clothing_description"][0].isupper()


def test_corrupt_texts_depends_only_on_the_seed() -> None:
    clean = rows_of(6, 4)
    first, again, other = (corrupt_texts(clean, 0.5, seed)["captions"] for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_corrupt_texts_keeps_columns_and_missing_texts() -> None:
    clean = rows_of(6, 4)
    missing, feature = [None] * len(clean), PERSON_FEATURES["identity_description"]
    clean = clean.remove_columns("identity_description").add_column("identity_description", missing, feature=feature)
    noisy = corrupt_texts(clean, 1.0, seed=0)
    assert noisy.column_names == clean.column_names
    assert noisy.features == clean.features
    assert set(noisy["identity_description"]) == {None}


def test_corrupt_texts_rejects_invalid_input() -> None:
    with pytest.raises(ValueError, match=r"must be between 0 and 1, got 1\.5"):
        corrupt_texts(rows_of(2, 2), 1.5, seed=0)
    with pytest.raises(ValueError, match="cannot be swapped: 5 of them show one person"):
        corrupt_texts(rows_of(1, 10), 1.0, seed=0)
