"""The check of columns and of disjoint people."""

import pytest
from datasets import Dataset, DatasetDict

from data_pipeline.schema import PERSON_FEATURES, check_splits


def _split(*person_ids: int) -> Dataset:
    empty = dict.fromkeys(PERSON_FEATURES) | {"camera_id": -1, "outfit_id": -1, "captions": []}
    return Dataset.from_list([empty | {"person_id": person_id} for person_id in person_ids], features=PERSON_FEATURES)


def test_check_splits_accepts_disjoint_people() -> None:
    check_splits(DatasetDict(train=_split(1, 2, 2), validation=_split(0), test=_split(3)))


def test_check_splits_lists_people_in_two_splits() -> None:
    with pytest.raises(ValueError, match=r"2 person_id\(s\) are in both split 'train' and split 'test': 2, 7;"):
        check_splits(DatasetDict(train=_split(7, 1, 2), validation=_split(4), test=_split(2, 3, 7)))


def test_check_splits_names_a_missing_column() -> None:
    with pytest.raises(ValueError, match="split 'test' has no column captions, outfit_id"):
        check_splits(DatasetDict(train=_split(1), test=_split(2).remove_columns(["captions", "outfit_id"])))
