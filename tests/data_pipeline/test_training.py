"""Rows to train on, and queries of a split without captions."""

from typing import Any

import pytest
from datasets import Dataset, Features
from transformers.testing_utils import CaptureLogger

from data_pipeline import training
from data_pipeline.schema import PERSON_FEATURES
from data_pipeline.training import trainable_rows, with_queries


def rows_of(texts: list[tuple[list[str], str | None, str | None]]) -> Dataset:
    """Makes a split without images from captions, identity description and clothing description of each row."""
    names = ("captions", "identity_description", "clothing_description")
    columns: dict[str, Any] = {name: [entry[i] for entry in texts] for i, name in enumerate(names)}
    columns["person_id"] = list(range(len(texts)))
    return Dataset.from_dict(columns, Features({name: PERSON_FEATURES[name] for name in columns}))


def test_trainable_rows_keeps_captions_and_full_descriptions() -> None:
    texts = [
        (["a"], "i", "c"),
        (["b"], None, "c"),
        (["c"], None, None),
        ([], "i", "c"),
        ([], "i", None),
        ([], "i", " "),
    ]
    with CaptureLogger(training.logger) as logged:
        assert trainable_rows(rows_of(texts))["person_id"][:] == [0, 1, 2, 3]
    assert "2 of 6 training images have neither a caption nor both descriptions" in logged.out
    assert "2 of 4 training images have no descriptions: they are trained on their captions" in logged.out


def test_trainable_rows_falls_back_to_captions() -> None:
    rows = rows_of([(["a"], None, None), ([], None, None)])
    assert trainable_rows(rows)["person_id"][:] == [0]
    with pytest.raises(ValueError, match="no training image has a caption or a description"):
        trainable_rows(rows.select([1]))


def test_with_queries_falls_back_to_descriptions() -> None:
    captioned = rows_of([(["a"], "i", "c"), ([], "i", "c")])
    assert with_queries(captioned, "test")["captions"][:] == [["a"], []]
    bare = rows_of([([], "i", "c"), ([], None, "d"), ([], None, None)])
    assert with_queries(bare, "test")["captions"][:] == [["i c"], ["d"], []]
    with pytest.raises(ValueError, match="test: no image has a caption or a description"):
        with_queries(bare.select([2]), "test")
