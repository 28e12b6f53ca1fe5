"""Replaces columns of a data set without copying its images."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset


def with_column(split: Dataset, name: str, values: Sequence[Any], feature: Any) -> Dataset:
    """Replaces or adds one column of type `feature`, one value per row; keeps the order of the other columns."""
    names = list(dict.fromkeys([*split.column_names, name]))
    if name in split.column_names:
        split = split.remove_columns(name)
    return split.add_column(name, list(values), feature=feature).select_columns(names)
