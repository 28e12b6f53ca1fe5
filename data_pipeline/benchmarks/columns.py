"""Columns of a table, replaced without touching its images."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset


def with_column(split: Dataset, name: str, values: Sequence[Any], feature: Any) -> Dataset:
    """The split with one column replaced or added; the order of the others is kept.

    Args:
        values: one a row.
        feature: the column's type.
    """
    names = list(dict.fromkeys([*split.column_names, name]))
    if name in split.column_names:
        split = split.remove_columns(name)
    return split.add_column(name, list(values), feature=feature).select_columns(names)
