"""The table layout, and the check that splits hold disjoint people."""

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from data_pipeline.schema import PERSON_FEATURES, check_splits


def _split(*person_ids: int) -> Dataset:
    rows = [
        {
            "image": Image.new("RGB", (4, 8)),
            "person_id": person_id,
            "camera_id": -1,
            "outfit_id": -1,
            "captions": ["a person"],
            "identity_description": None,
            "clothing_description": None,
        }
        for person_id in person_ids
    ]
    return Dataset.from_list(rows, features=PERSON_FEATURES)


def test_rows_without_descriptions_fit_the_layout() -> None:
    row = _split(3)[0]
    assert row["identity_description"] is None
    assert row["captions"] == ["a person"]
    assert row["image"].size == (4, 8)


def test_splits_of_different_people_pass_the_check() -> None:
    check_splits(DatasetDict(train=_split(1, 2, 2), validation=_split(0), test=_split(3)))


def test_check_lists_the_people_in_two_splits() -> None:
    with pytest.raises(ValueError, match=r"2 person_id\(s\) lie in both split 'train' and split 'test': 2, 7;"):
        check_splits(DatasetDict(train=_split(7, 1, 2), validation=_split(4), test=_split(2, 3, 7)))


def test_check_names_a_missing_column() -> None:
    with pytest.raises(ValueError, match="split 'test' has no column captions, outfit_id"):
        check_splits(DatasetDict(train=_split(1), test=_split(2).remove_columns(["captions", "outfit_id"])))
