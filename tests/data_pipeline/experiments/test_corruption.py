"""Wrong texts: how many, whose, and what changes in them."""

from typing import Any

import pytest
from datasets import Dataset

from data_pipeline import PERSON_FEATURES
from data_pipeline.experiments.corruption import ATTRIBUTE_WORDS, corrupt_texts

TEXTS = ("captions", "identity_description", "clothing_description")


def rows_of(people: int, images: int) -> Dataset:
    columns: dict[str, list[Any]] = {name: [] for name in PERSON_FEATURES}
    for person in range(people):
        for image in range(images):
            columns["image"].append(None)
            columns["person_id"].append(person)
            columns["camera_id"].append(0)
            columns["outfit_id"].append(person)
            columns["captions"].append([f"Person {person} in a red coat", f"image {image} of person {person}, a man"])
            columns["identity_description"].append(f"A young man, number {person}.")
            columns["clothing_description"].append(f"Black jeans, number {person}.")
    return Dataset.from_dict(columns, features=PERSON_FEATURES)


def numbers_in(row: dict[str, Any]) -> set[str]:
    """The people whom a row's texts are about."""
    text = " ".join([*row["captions"], row["identity_description"], row["clothing_description"]])
    found = (
        text.replace("person", "number").replace("Person", "number").replace(",", "").replace(".", "").split("number ")
    )
    return {part.split()[0] for part in found[1:]}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_share_of_rows_is_wrong_half_by_another_person_half_by_attributes(share: float) -> None:
    clean = rows_of(20, 5)
    noisy = corrupt_texts(clean, share, seed=0)
    swapped = changed = 0
    for before, after in zip(clean, noisy, strict=True):
        about = numbers_in(after)
        assert len(about) == 1  # captions and descriptions go wrong together
        if about != {str(before["person_id"])}:
            swapped += 1
        elif any(before[name] != after[name] for name in TEXTS):
            changed += 1
            assert all(before[name] != after[name] for name in TEXTS)
        assert before["person_id"] == after["person_id"]
    assert (swapped, changed) == (round(50 * share), round(50 * share))


def test_rows_whose_texts_would_stay_right_can_be_had_alone() -> None:
    clean = rows_of(20, 5)
    noisy = corrupt_texts(clean, 0.3, seed=0)
    right = [row for row, other in zip(clean, noisy, strict=True) if row == other]
    assert len(right) == 70
    assert list(corrupt_texts(clean, 0.3, seed=0, right_alone=True)) == right


def test_attribute_words_become_others_of_their_kind_the_same_word_always_the_same() -> None:
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


def test_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    clean = rows_of(6, 4)
    first, again, other = (corrupt_texts(clean, 0.5, seed)["captions"] for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_columns_keep_their_order_and_kinds_and_missing_texts_stay_missing() -> None:
    clean = rows_of(6, 4)
    clean = clean.remove_columns("identity_description").add_column(
        "identity_description", [None] * len(clean), feature=PERSON_FEATURES["identity_description"]
    )
    noisy = corrupt_texts(clean, 1.0, seed=0)
    assert noisy.column_names == clean.column_names
    assert noisy.features == clean.features
    assert set(noisy["identity_description"]) == {None}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie between 0 and 1, got 1\.5"):
        corrupt_texts(rows_of(2, 2), 1.5, seed=0)
    with pytest.raises(ValueError, match="cannot be swapped: 5 of them show one person"):
        corrupt_texts(rows_of(1, 10), 1.0, seed=0)
